"""The fast way from a cell to Python gives exactly what IPython's own transforms give, whatever is in the cell."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.macro import Macro
from IPython.core.prefilter import PrefilterChecker, PrefilterTransformer

from .shells import surroundings, worker_shell

PYTHON = [
    "1",
    "x",
    "x = 1",
    "x == 1",
    "x, y = 1, 2",
    "print(x)",
    "print(x) # comment?",
    "# only a comment",
    "# what?",
    "'!ls'",
    "'what?'",
    "a % b",
    "a %b",
    "a\n%b",
    "x = (a\n%b)",
    "x = a \\\n%b",
    "x = (a\n/b)",
    "if x:\n    y",
    "if x:\n    y\n",
    "if x: y",
    "for i in range(3): print(i)",
    "def f():\n    return 1\n\nf()",
    "@decorator\nclass A:\n    pass",
    "async def f():\n    await g()\nawait f()",
    "await f()",
    "lambda: 1",
    "x;",
    "x; y",
    "x = 1;\n",
    "pass",
    "None",
    "...",
    "..., ...",
    "{...: 1}",
    "x[...:2]",
    "x if y else z",
    "not x",
    "é = 1",
    "ñandú(1)",
    "'\U0001f600'",
    "'\\x00'",
    "f'{x!r}'",
    "f'{x:>10}'",
    'f"{x!s:%Y}"',
    "'''\n!ls\n%time x\nx?\n'''",
    "s = '''a\nb?\n'''",
    "x = '''\n    indented\n'''",
    "import os, sys\nos.getcwd()",
    "x = 1 # a \\",
    "x = [\n  1,\n  2,\n]",
    "(\n1\n)",
    "x\n\n\n",
    "x\n\n\ny\n",
    "x\n   \n",
    "x = 1\r\ny = 2\r\n",
    "x = 1\ry = 2",
    "x\x0c",
    "x = 1\n\x0cy = 2",
    "x = '\u2028'",
    "x = '\x85'",
    "x   ",
    "x\t",
    "x   \n",
    "x = 1   # c  \n",
    "# -*- coding: latin-1 -*-\nx = 'é'",
    "#!/usr/bin/env python\nx",
    "x = 1 # PYTHON-MODE",
    "In = 1",
    "In[0]",
    "_i",
    "_ih[-1]",
    "exec('x')",
    "exit_code",
    "exit1 = 2",
    "quit_ = 3",
    "__x__",
]
MAGICS = [
    "%time x",
    "%time",
    "%",
    "%%time\nx",
    "%%time",
    "%%bash\nls | wc\n",
    "%matplotlib inline",
    "%matplotlib inline\nx = 1",
    "x = 1\n%time x",
    "if x:\n    %time y",
    "if x:\n    !ls",
    "a = %time x",
    "a, b = %sc ls",
    "a = !ls",
    "a = !ls -l {x} $HOME\n",
    "!ls",
    "!!ls",
    "!ls \\\n  -l",
    "%time x \\\n  + y",
    "x?",
    "x??",
    "?x",
    "??x",
    "x.y?",
    "%time?",
    "?%time",
    "x*?",
    "a = x?",
    "x = 1; y?",
    "(x?",
    ";f a b",
    ",f a b",
    "/f a b",
    "f?\ng?",
    "def f():\n    x?\n",
    "%lsmagic\n%lsmagic",
    "  %time x",
    "%%javascript\nalert(1)?",
    "x = '''\n''' ; %time x",
    "print('a'); !ls",
]
AUTOMAGIC = [
    "ls",
    "ls\n",
    "ls\n\n",
    "\nls",
    "ls -l",
    "ls  ",
    "ls;",
    "ls # comment",
    "ls\nls",
    "ls = 1",
    "ls == 1",
    "ls.x",
    "ls()",
    "ls[0]",
    "ls, 1",
    "ls in x",
    "ls and x",
    "ls if x else y",
    "pwd",
    "pwd\n",
    "cd",
    "cd ..",
    "cd -",
    "cd -q",
    "time x",
    "time",
    "time.sleep(0)",
    "timeit - 1",
    "who",
    "whos\n",
    "reset",
    "pinfo x",
    "history",
    "alias",
    "cat",
    "cat x",
    "rm x",
    "run x",
    "run",
    "edit",
    "ed",
    "store",
    "matplotlib",
    "matplotlib.use",
    "pylab",
    "config",
    "lsé",
    "ls_",
    "ls1",
]
EXITS = [
    "exit",
    "exit\n",
    "exit()",
    "exit(0)",
    "quit",
    "quit()",
    "exit;",
    "exit x",
    "exit.x",
    "exit == 1",
    "exit\nexit",
    " exit",
]
PROMPTS = [
    ">>> x = 1",
    ">>> x = 1\n>>> y",
    ">>> for i in x:\n...     i\n",
    "   >>> x",
    "x\n>>> y",
    "x = 1\n>>> y",
    '"""\n>>> f(1)\n2\n"""',
    'def f():\n    """Doc.\n\n    >>> f()\n    1\n    """\n    return 1',
    "'''>>> x'''",
    "x = '''\n>>> y\n'''\n",
    "x >>1",
    "x >>> y",
    "In [1]: x",
    "In [1]: x = 1",
    "In [12]: x\n    ...: y",
    "In [1]: def f():\n   ...:     pass\n",
    "In [1]:x",
    "In[1]: x",
    " In [1]: x",
    "[ins] In [1]: x",
    "x = 1\nIn [2]: y",
    "x = '''\nIn [2]: y\n'''",
    "x = '''\n...: y\n'''",
    "x = '\u2028In [1]: y'",
    "Out[1]: x",
    "...: x",
    "...",
    "x = {\n...: 1}",
    "In [1]: ls",
]
WHITESPACE = [
    "",
    "\n",
    "   ",
    "\n\n\n",
    "\t",
    " x",
    "  x = 1\n  y = 2",
    "\tx\n\ty",
    "  if x:\n    y\n",
    "  x\ny",
    "\n\nx",
    "\n  \n  x\n  y",
    "\r\nx",
    "\x0cx",
    "\xa0x",
    "\u2003x",
    "\ufeffx",
    " # comment\n x",
    "    ",
]
BROKEN = [
    "x = ",
    "def",
    "(",
    ")",
    "'",
    "'''",
    "x y",
    "if x:",
    "if x:\ny",
    "return",
    "break",
    "x = 1\n  y = 2",
    "1 = x",
    "\x00",
    "x\x00",
    "x = '\x00'",
    "\\",
    "x \\",
    "0777",
    "f'{'",
    "\ud800",
    "x = '\ud800'",
    "print x",
    "f(x for x in y, 1)",
    "nonlocal x",
    "a b?",
    "(" * 300,
    "x" + "+x" * 200,
]
CELLS = [*PYTHON, *MAGICS, *AUTOMAGIC, *EXITS, *PROMPTS, *WHITESPACE, *BROKEN]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with surroundings():
        yield worker_shell(tmp_path_factory.mktemp("profile"))


def outcome(function: Callable[[str], str], cell: str) -> object:
    """What a transform returns, or the error that it raises.

    Newer versions of IPython dedent a cell with `textwrap`, which empties its blank lines, those in strings as well;
    the fast way keeps what was typed. And IPython warns of unusual line ends.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return re.sub(r"(?m)^[ \t]+$", "", function(cell))
    except Exception as exc:  # noqa: BLE001 - whatever IPython raises is what the user sees
        return type(exc), str(exc)


def assert_same(shell: Any, cells: list[str]) -> None:
    """Fails with all cells that differ at once."""
    differ = {}
    ipythons: Any = InteractiveShell
    for cell in cells:
        ours = outcome(shell.transform_cell, cell)
        theirs = outcome(lambda text: ipythons.transform_cell(shell, text), cell)
        if ours != theirs:
            differ[cell] = (ours, theirs)
    assert differ == {}


@pytest.mark.parametrize(
    "cells", [PYTHON, MAGICS, AUTOMAGIC, EXITS, PROMPTS, WHITESPACE, BROKEN], ids=lambda cells: repr(cells[1])
)
def test_a_cell_becomes_what_ipython_makes_of_it(cells: list[str], shell: Any) -> None:
    assert_same(shell, cells)


def test_blanks_in_strings_are_kept(shell: Any) -> None:
    assert shell.transform_cell("x = '''\n   \n'''") == "x = '''\n   \n'''\n"


@pytest.mark.parametrize("end", ["\n", "\n\n", "\n\n\n", "  ", " \n", "\r\n", "\n# end", "\n%time x", "\n    "])
def test_however_a_cell_ends_it_becomes_the_same(end: str, shell: Any) -> None:
    assert_same(shell, [cell + end for cell in CELLS])


@pytest.mark.parametrize("begin", ["\n", "# begin\n", "x = 1\n", "    ", "if x:\n    "])
def test_however_a_cell_begins_it_becomes_the_same(begin: str, shell: Any) -> None:
    assert_same(shell, [begin + cell for cell in CELLS])


@pytest.mark.parametrize("autocall", [1, 2])
def test_autocall_is_obeyed(autocall: int, shell: Any) -> None:
    shell.autocall = autocall
    shell.user_ns["f"] = print
    try:
        assert_same(shell, [*CELLS, "f 1", "f", "f x y", "len x", "len", "print", "f;"])
        assert "print(" in shell.transform_cell("print 1")
    finally:
        shell.autocall = 0
        del shell.user_ns["f"]


def test_automagic_that_is_off_is_obeyed(shell: Any) -> None:
    shell.automagic = False
    try:
        assert_same(shell, CELLS)
        assert shell.transform_cell("ls") == "ls\n"
    finally:
        shell.automagic = True


@pytest.mark.parametrize("value", [5, None, "", [], print, Macro("x = 1\n")], ids=repr)
def test_names_of_the_user_that_are_magics_or_autocalls_are_the_users(value: object, shell: Any) -> None:
    names = ["ls", "time", "exit", "x", "mine"]
    before = {name: shell.user_ns[name] for name in names if name in shell.user_ns}
    shell.user_ns.update(dict.fromkeys(names, value))
    try:
        assert_same(shell, [*CELLS, "mine", "mine\n", "mine 1", "mine;"])
    finally:
        for name in names:
            del shell.user_ns[name]
        shell.user_ns.update(before)


def test_magics_that_the_user_adds_and_removes_are_known_at_once(shell: Any) -> None:
    assert shell.transform_cell("shout") == "shout\n"
    shell.register_magic_function(lambda line: line.upper(), magic_name="shout")
    try:
        assert_same(shell, ["shout", "shout\n", "shout loud", "shout.loud", "shout = 1", "%shout x", "shout\nshout"])
        assert shell.transform_cell("shout\n") == "get_ipython().run_line_magic('shout', '')\n"
    finally:
        del shell.magics_manager.magics["line"]["shout"]
    assert shell.transform_cell("shout") == "shout\n"


def swap(lines: list[str]) -> list[str]:
    """A transformer of the user's own."""
    return [line.replace("x", "swapped") for line in lines]


class AnyName(PrefilterChecker):
    """Takes every line for a magic."""

    priority = 1

    def check(self, line_info: Any) -> Any:
        manager: Any = self.prefilter_manager
        return manager.get_handler_by_name("magic") if line_info.ifun == "x" else None


class Doubled(PrefilterTransformer):
    """Doubles single lines."""

    def transform(self, line: str, continue_prompt: bool) -> str:  # noqa: ARG002 - IPython's signature
        return f"{line} + {line}"


any_name: Any = AnyName
doubled: Any = Doubled


@pytest.mark.parametrize("where", ["cleanup_transforms", "line_transforms"])
@pytest.mark.parametrize("place", ["first", "last", "instead"])
def test_input_transformers_of_the_user_are_obeyed(where: str, place: str, shell: Any) -> None:
    transforms = getattr(shell.input_transformer_manager, where)
    before = list(transforms)
    transforms[:] = {"first": [swap, *before], "last": [*before, swap], "instead": [*before[:-1], swap]}[place]
    try:
        assert_same(shell, CELLS)
        assert shell.transform_cell("x = 1\nx") == "swapped = 1\nswapped\n"
    finally:
        transforms[:] = before


def test_transformers_after_ipythons_are_obeyed(shell: Any) -> None:
    shell.input_transformers_post.append(swap)
    try:
        assert_same(shell, CELLS)
        assert shell.transform_cell("x") == "swapped\n"
    finally:
        shell.input_transformers_post.clear()


def test_token_transformers_of_the_user_are_obeyed(shell: Any) -> None:
    transformers = shell.input_transformer_manager.token_transformers

    class Nines:
        """Replaces the first 8 by a 9."""

        priority = 1

        def __init__(self, start: tuple[int, int]) -> None:
            self.start_line, self.start_col = start[0] - 1, start[1]

        def sortby(self) -> tuple[int, int, int]:
            return self.start_line, self.start_col, self.priority

        @classmethod
        def find(cls, tokens_by_line: list[list[Any]]) -> Nines | None:
            return next((cls(t.start) for line in tokens_by_line for t in line if t.string == "8"), None)

        def transform(self, lines: list[str]) -> list[str]:
            line = lines[self.start_line]
            line = line[: self.start_col] + "9" + line[self.start_col + 1 :]
            return [*lines[: self.start_line], line, *lines[self.start_line + 1 :]]

    transformers.append(Nines)
    try:
        assert_same(shell, ["8", "x = 8\ny = 8"])
        assert shell.transform_cell("x = 8\ny = 8") == "x = 9\ny = 9\n"
    finally:
        transformers.remove(Nines)


def test_prefilter_checkers_of_the_user_are_obeyed(shell: Any) -> None:
    prefilter = shell.prefilter_manager
    checker = any_name(shell=shell, prefilter_manager=prefilter, parent=prefilter)
    try:
        assert_same(shell, CELLS)
        assert "run_line_magic" in shell.transform_cell("x")
    finally:
        prefilter.unregister_checker(checker)


def test_prefilter_transformers_of_the_user_are_obeyed(shell: Any) -> None:
    prefilter = shell.prefilter_manager
    transformer = doubled(shell=shell, prefilter_manager=prefilter, parent=prefilter)
    try:
        assert_same(shell, CELLS)
        assert shell.transform_cell("x") == "x + x\n"
    finally:
        prefilter.unregister_transformer(transformer)


def test_plain_python_does_take_the_fast_way(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise all of the above would prove nothing."""
    slow: list[str] = []
    manager = type(shell.input_transformer_manager)
    original = manager.transform_cell

    def noted(self: Any, cell: str) -> str:
        slow.append(cell)
        transformed: str = original(self, cell)
        return transformed

    monkeypatch.setattr(manager, "transform_cell", noted)
    for cell in ("x = 1", "1 + 1", "print(1)", "await f()", "def f():\n    return 1\n\nf()", "x\n", "# comment\nx"):
        shell.transform_cell(cell)
    assert slow == []
