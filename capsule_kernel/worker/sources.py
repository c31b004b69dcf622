"""Source files as tracebacks look at them: only the parts that are shown are looked at node by node.

stack_data, through which IPython makes tracebacks, knows a file by its whole syntax tree: it visits every node, names
every function and measures every statement before the first line is shown: half a second for a file of ten thousand
lines. `Source` answers the same questions with the same answers from the statement, or the method, that a line belongs
to. stack_data also makes a lexer's class, with a grammar of its own, for every frame; `highlight` makes one. The tests
compare the answers.
"""

from __future__ import annotations

import ast
import bisect
import gc
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, cast

import executing.executing
import pygments
import stack_data.core
from pygments.formatters.terminal256 import Terminal256Formatter
from pygments.lexers.python import PythonLexer

_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")
"""Fields that hold statements, in the order of the text."""
_AHEAD = 12
"""How many lines are coloured together with one that is looked at."""


def install() -> None:
    """Have stack_data read files with `Source`, and colour them with `highlight`."""
    for module in (stack_data, stack_data.core):
        vars(module)["Source"] = Source
    vars(stack_data.core)["_pygmented_with_ranges"] = highlight


class _Lexer(PythonLexer):
    """Marks what a frame was executing."""

    ranges: Sequence[tuple[int, int]] = ()

    def get_tokens(self, text: str, **options: Any) -> Iterator[tuple[Any, str]]:
        at = 0
        for kind, value in super().get_tokens(text, **options):
            is_marked = any(start <= at < end for start, end in self.ranges)
            at += len(value)
            yield (kind.ExecutingNode if is_marked else kind), value


def highlight(formatter: Any, code: str, ranges: Sequence[tuple[int, int]]) -> Sequence[str]:
    """Return the lines of Python code, coloured.

    Args:
        formatter: one of pygments.
        code: the text.
        ranges: begins and ends, in characters, of what is marked.
    """
    if "_tokens" not in vars(_Lexer):
        PythonLexer()
        _Lexer._tokens = PythonLexer._tokens  # noqa: SLF001 - the same grammar, made once
    lexer = _Lexer(stripnl=False)
    lexer.ranges = ranges
    return _Coloured(lexer.get_tokens(code), formatter, code)


class _Coloured(Sequence[str]):
    """Lines that are coloured as far as they are looked at: not to the end of a long function that failed midway.

    Of a function that pygments cannot colour they are plain.
    """

    def __init__(self, tokens: Iterator[tuple[Any, str]], formatter: Any, code: str) -> None:
        self._tokens = tokens
        self._formatter = formatter
        self._code = code
        self._taken: list[tuple[Any, str]] = []
        self._lines: list[str] = []
        self._is_whole = False

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice) or number < 0:
            self._colour(sys.maxsize)
        elif number >= len(self._lines):
            self._colour(number + _AHEAD)
        return self._lines[number]

    def __len__(self) -> int:
        self._colour(sys.maxsize)
        return len(self._lines)

    def _colour(self, line: int) -> None:
        """Have the lines up to one, and perhaps some more."""
        if self._is_whole:
            return
        # How other formatters write the beginning of a text may depend on its end.
        if type(self._formatter) is not Terminal256Formatter:
            line = sys.maxsize
        try:
            missing = line + 1 - sum(text.count("\n") for _, text in self._taken)
            self._is_whole = True
            for kind, text in self._tokens:
                self._taken.append((kind, text))
                missing -= text.count("\n")
                if missing < 0:
                    self._is_whole = False
                    break
            self._lines = pygments.format(self._taken, self._formatter).splitlines()
        except Exception:  # noqa: BLE001 - plain text is better than none
            self._is_whole = True
            self._lines = self._code.splitlines()
        if not self._is_whole:
            self._lines.pop()  # it may go on


class Source(stack_data.core.Source):
    """A file, with its nodes by line and its functions by name made when a line of their part is asked for."""

    def __init__(self, filename: str, lines: Sequence[str]) -> None:
        self.filename = filename
        self.text = "".join(lines)
        self.lines = [line.rstrip("\r\n") for line in lines]
        self.tree = None
        self._asttokens = None
        self._asttext = None
        is_collecting = gc.isenabled()
        try:
            gc.disable()  # a tree is no garbage, and would be looked through again and again while it grows
            self.tree = ast.parse(self.text, filename=filename)
        except (SyntaxError, ValueError):
            parts = _Parts([])
        else:
            parts = _Parts(list(_split(self.tree.body, self.tree, ())))
        finally:
            if is_collecting:
                gc.enable()
        self._nodes_by_line = cast("Any", _Nodes(parts))
        self._qualnames = cast("Any", _Qualnames(parts))

    def line_range(self, node: ast.AST) -> tuple[int, int]:
        """Return the first line of a node and the one behind its last."""
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            return _first_line(node), cast("int", _last_statement(node).end_lineno) + 1
        found: tuple[int, int] = super().line_range(node)
        return found

    def _raw_split_into_pieces(self, stmt: Any, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the lines of statements: those of simple ones, and what is between and around them."""
        for field in _BLOCKS:
            block = getattr(stmt, field, None)
            if not block:
                continue
            ranges: dict[tuple[int, int], ast.AST] = {}
            for node in block:
                ranges.setdefault(self.line_range(node), node)
            for lines in sorted(ranges):
                for inner_start, inner_end in self._raw_split_into_pieces(ranges[lines], *lines):
                    if start < inner_start:
                        yield start, inner_start
                    if inner_start < inner_end:
                        yield inner_start, inner_end
                    start = inner_end
        yield start, end


class _Part:
    """Statements that share lines with no other part: most often one, or the head of one without what is in it."""

    def __init__(self, nodes: Sequence[ast.AST], parent: ast.AST, names: tuple[str, ...], *, is_head: bool) -> None:
        self._nodes = nodes
        self._parent = parent
        self._names = names
        self._is_head = is_head
        self._by_line: dict[int, list[ast.AST]] | None = None
        self._qualnames: dict[tuple[str, int], str] | None = None

    @property
    def by_line(self) -> dict[int, list[ast.AST]]:
        """The nodes of each line, in the order of a breadth-first walk; all of them know their parent."""
        found = self._by_line
        if found is None:
            found = {}
            for node in self._walk():
                for line in executing.executing.node_linenos(node):
                    found.setdefault(line, []).append(node)
            self._by_line = found  # whole: other threads look, too
        return found

    def qualname(self, key: tuple[str, int]) -> str | None:
        """Return the qualified name of a function or class, by its name and first line."""
        node: Any = self._nodes[0]
        if len(self._nodes) == 1 and (getattr(node, "name", ""), _first_line(node)) == key:
            return ".".join((*self._names, node.name))
        return self._visited.get(key)

    @property
    def _visited(self) -> dict[tuple[str, int], str]:
        if self._qualnames is None:
            visitor = executing.executing.QualnameVisitor()
            visitor.stack = list(self._names)
            for node in self._nodes:
                if self._is_head:
                    if isinstance(node, ast.ClassDef):
                        visitor.add_qualname(node)
                    for child in _head(node):
                        visitor.visit(child)
                else:
                    visitor.visit(node)
            self._qualnames = visitor.qualnames
        return self._qualnames

    def _walk(self) -> Iterator[ast.AST]:
        todo: deque[ast.AST] = deque()
        for node in self._nodes:
            _set_parent(node, self._parent)
            todo.append(node)
        while todo:
            node = todo.popleft()
            children = _head(node) if self._is_head and node is self._nodes[0] else ast.iter_child_nodes(node)
            for child in children:
                _set_parent(child, node)
                todo.append(child)
            yield node


class _Parts:
    """The parts of a file, in their order."""

    def __init__(self, parts: list[tuple[int, int, _Part]]) -> None:
        self._starts = [start for start, _, _ in parts]
        self._parts = parts

    def at(self, line: int) -> _Part | None:
        """Return the part that a line belongs to."""
        number = bisect.bisect_right(self._starts, line) - 1
        if number < 0:
            return None
        _, end, part = self._parts[number]
        return part if line <= end else None


class _Nodes:
    """`Source._nodes_by_line`."""

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts

    def __getitem__(self, line: int) -> list[ast.AST]:
        part = self._parts.at(line)
        return part.by_line.get(line, []) if part is not None else []


class _Qualnames:
    """`Source._qualnames`."""

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts

    def get(self, key: tuple[str, int], default: str) -> str:
        part = self._parts.at(key[1])
        return default if part is None else part.qualname(key) or default


def _split(body: Sequence[ast.stmt], parent: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[int, int, _Part]]:
    """Yield first line, last line and part, of the statements of a module, a class, or an `if` in one of them."""
    for group, start, end in _groups(body):
        node = group[0]
        if (
            len(group) > 1
            or not isinstance(node, ast.ClassDef | ast.If)
            or _first_line(node.body[0]) <= _head_end(node)
        ):
            yield start, end, _Part(group, parent, names, is_head=False)
            continue
        _set_parent(node, parent)
        yield start, _head_end(node), _Part([node], parent, names, is_head=True)
        if isinstance(node, ast.ClassDef):
            yield from _split(node.body, node, (*names, node.name))
        else:
            yield from _split(node.body, node, names)
            yield from _split(node.orelse, node, names)


def _groups(body: Sequence[ast.stmt]) -> Iterator[tuple[list[ast.stmt], int, int]]:
    """Yield statements together that share a line, with the first and the last line of them."""
    group: list[ast.stmt] = []
    start = end = 0
    for node in body:
        if group and _first_line(node) > end:
            yield group, start, end
            group = []
        if not group:
            start = end = _first_line(node)
        group.append(node)
        end = max(end, cast("int", node.end_lineno))
    if group:
        yield group, start, end


def _head(node: Any) -> Iterator[ast.AST]:
    """Yield the children of a statement that are not statements, in the order of its fields."""
    for field, value in ast.iter_fields(node):
        if field in _BLOCKS:
            continue
        if isinstance(value, list):
            yield from value
        elif isinstance(value, ast.AST):
            yield value


def _head_end(node: ast.stmt) -> int:
    line: int = max([node.lineno, *(cast("Any", child).end_lineno for child in _head(node))])
    return line


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", None)
    line: int = (decorators[0] if decorators else node).lineno
    return line


def _last_statement(node: Any) -> Any:
    while True:
        for field in reversed(_BLOCKS):
            block = getattr(node, field, None)
            if block:
                node = block[-1]
                break
        else:
            return node


def _set_parent(node: Any, parent: ast.AST) -> None:
    node.parent = parent
