"""Tracebacks read files part by part: what they find is what stack_data's own reading finds."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import executing
import numpy as np
import pandas as pd
import pytest
import stack_data.core
from pygments.formatters import HtmlFormatter, NullFormatter, Terminal256Formatter
from test import test_grammar, test_patma, test_unpack_ex

from capsule_kernel.worker import sources, tracebacks

PLAIN, PLAIN_HIGHLIGHT = stack_data.core.Source, stack_data.core._pygmented_with_ranges
FILES = [ast, subprocess, test_grammar, test_patma, test_unpack_ex, textwrap, traceback, np.ma.core, pd.core.indexing]
ODD = {
    "empty": "",
    "comment": "# nothing\n",
    "no end": "x = 1",
    "not Python": "def f(:\n    pass\n",
    "one line": "class A: x = 1\nclass B: y = lambda: 1; z = 2\n",
    "semicolons": "a = 1; b = [\n    1,\n]; c = 3\nd = 4; e = 5\n",
    "decorated": "import functools\n\n@functools.cache\n@(lambda f: f)\ndef f(x=lambda: 1): return x\n",
    "decorated class": "@(lambda c:\n  c)\nclass A(\n    object,\n    metaclass=type,\n):\n\n    '''D'''\n    x = 1\n",
    "nested": "class A:\n    class B:\n        @property\n        def f(self):\n            def g(): return lambda: 1\n"
    "            return g\n    def f(self): pass\n\n\ndef f(): pass\n",
    "twins": "if x:\n    def f(): return 1\nelse:\n    def f(): return 2\n\nclass A:\n    def f(self): 0\n\n"
    "    f = f; g = f\n",
    "generic": "class A[T: (int, str)](\n    dict[str, T]\n):\n    def f[S](self, x: S) -> S: return x\n",
    "try": "try:\n    pass\nexcept* ValueError:\n    x = 1;\nelse:\n    pass\nfinally:\n    y = 2\n",
    "if": "if a and (\n    lambda: 1\n):\n    def f(): return 1\n\nelif b: x = 1\nelse:\n    class B:\n        if c:\n"
    "            @d\n            def f(self): return (lambda: 2)\n        else: y = 3; z = 4\n\n    x = 2\n",
    "match": "match x:\n    case [\n        1,\n    ] if y:\n        x = 1\n    case _:\n        x = 2\nwith a: b\n",
    "text": "x = '''\nclass A:\n    pass\n'''\nclass B:\n    y = '''\n  '''; z = 1\n    w = f'{x!r:\n}'\n",
}


def texts() -> list[Any]:
    files = [pytest.param(Path(module.__file__ or "").read_text(), id=module.__name__) for module in FILES]
    return files + [pytest.param(text, id=name) for name, text in ODD.items()]


def described(node: Any) -> list[tuple[Any, ...]]:
    """A node and all that it is in. Nodes of contexts (`Load`) are shared by a tree, and have one parent of many."""
    found = []
    while node is not None and not isinstance(node, ast.expr_context):
        place = [getattr(node, name, None) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")]
        found.append((type(node), *place))
        node = getattr(node, "parent", None)
    return found


@pytest.mark.parametrize("text", texts())
def test_a_part_answers_as_the_whole_file(text: str) -> None:
    lines = tuple(text.splitlines(keepends=True))
    plain, ours = PLAIN("file", lines), sources.Source("file", lines)
    assert ours.lines == plain.lines
    assert ours.pieces == plain.pieces
    for line in range(len(lines) + 2):
        expected = [described(node) for node in plain._nodes_by_line[line]]
        assert [described(node) for node in ours._nodes_by_line[line]] == expected, line
    for key, qualname in plain._qualnames.items():
        assert ours._qualnames.get(key, "missing") == qualname


def test_threads_that_look_at_once_find_the_same() -> None:
    lines = tuple(Path(subprocess.__file__).read_text().splitlines(keepends=True))
    plain = [len(nodes) for nodes in map(PLAIN("file", lines)._nodes_by_line.__getitem__, range(len(lines)))]
    ours = sources.Source("file", lines)
    begin = threading.Barrier(4)

    def look(_: int) -> list[int]:
        begin.wait(30)
        return [len(ours._nodes_by_line[line]) for line in range(len(lines))]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(look, range(4))) == [plain] * 4
    finally:
        sys.setswitchinterval(before)


def test_a_name_that_is_not_there() -> None:
    ours = sources.Source("file", ("def f(): pass\n", "\n", "x = 1\n"))
    assert [ours._qualnames.get(("g", line), "g") for line in range(5)] == ["g"] * 5


def text_range(info: Any) -> tuple[int, int] | None:
    """Where what a frame was executing stands in its file."""
    return info.executing.text_range() if info.executing.node else None


def lines(info: Any) -> list[Any]:
    """The lines that are shown, and what is marked in them."""
    return [
        (line.text, [(marked.start, marked.end) for marked in line.executing_node_ranges])
        if isinstance(line, stack_data.Line)
        else None
        for line in info.lines
    ]


@pytest.mark.parametrize("text", texts())
@pytest.mark.parametrize("ranges", [[], [(0, 3)], [(5, 40), (20, 90)]])
def test_code_is_coloured_alike(text: str, ranges: list[tuple[int, int]]) -> None:
    style = stack_data.core.style_with_executing_node("default", "bg:#ff0")
    text = text[:5000]
    for formatter in (Terminal256Formatter(style=style), HtmlFormatter(style=style), NullFormatter()):
        plain = PLAIN_HIGHLIGHT(formatter, text, ranges)
        assert list(sources.highlight(formatter, text, ranges)) == plain
        assert len(sources.highlight(formatter, text, ranges)) == len(plain)
        ours = sources.highlight(formatter, text, ranges)
        for number in [*range(1, len(plain), 7), *range(0, len(plain), 3)]:
            assert ours[number] == plain[number]
        with pytest.raises(IndexError):
            ours[len(plain)]


def test_a_formatter_that_fails_leaves_plain_text() -> None:
    plain = PLAIN_HIGHLIGHT(None, "x = 1\ny", [])
    assert list(sources.highlight(None, "x = 1\ny", [])) == plain == ["x = 1", "y"]


def test_frames_are_shown_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    try:
        frame.loc[frame.groupby("a").apply(lambda group: group["missing"]), ["b"]]
    except KeyError as exc:
        trace = exc.__traceback__
    shown = []
    for source in (PLAIN, sources.Source):
        monkeypatch.setattr(stack_data.core, "Source", source)
        frames = list(stack_data.FrameInfo.stack_data(trace))
        assert len(frames) > 5
        shown.append([(info.executing.code_qualname(), text_range(info), lines(info)) for info in frames])
    assert shown[0] == shown[1]


@pytest.mark.parametrize(("found", "expected"), [("1.9.0", PLAIN), ("30.0", PLAIN), ("2.9.1", sources.Source)])
def test_tracebacks_use_it_with_versions_that_it_knows(
    monkeypatch: pytest.MonkeyPatch, found: str, expected: type
) -> None:
    monkeypatch.setattr(stack_data.core, "Source", PLAIN)
    monkeypatch.setattr(stack_data, "Source", PLAIN)
    monkeypatch.setattr(stack_data.core, "_pygmented_with_ranges", PLAIN_HIGHLIGHT)
    monkeypatch.setattr(executing, "__version__", found)
    tracebacks.prepare()
    assert stack_data.core.Source is expected
