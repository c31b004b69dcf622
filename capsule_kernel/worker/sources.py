"""Source files as tracebacks look at them: only the parts that are shown are looked at node by node.

stack_data, through which IPython makes tracebacks, knows a file by its whole syntax tree: it visits every node, names
every function and measures every statement before the first line is shown: half a second for a file of ten thousand
lines. `Source` answers the same questions with the same answers from the statement, or the method, that a line belongs
to. The tests compare the two.
"""

from __future__ import annotations

import ast
import bisect
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, cast

import executing.executing
import stack_data.core

_BLOCKS = ("finalbody", "orelse", "handlers", "body", "cases")
"""Fields that hold statements, last in the text first."""


def install() -> None:
    """Have stack_data read files with `Source`."""
    for module in (stack_data, stack_data.core):
        vars(module)["Source"] = Source


class Source(stack_data.core.Source):
    """A file, with its nodes by line and its functions by name made when a line of their part is asked for."""

    def __init__(self, filename: str, lines: Sequence[str]) -> None:
        self.filename = filename
        self.text = "".join(lines)
        self.lines = [line.rstrip("\r\n") for line in lines]
        self.tree = None
        self._asttokens = None
        self._asttext = None
        try:
            self.tree = ast.parse(self.text, filename=filename)
        except (SyntaxError, ValueError):
            parts = _Parts([])
        else:
            parts = _Parts(list(_split(self.tree.body, self.tree, ())))
        self._nodes_by_line = cast("Any", _Nodes(parts))
        self._qualnames = cast("Any", _Qualnames(parts))

    def line_range(self, node: ast.AST) -> tuple[int, int]:
        """Return the first line of a node and the one behind its last."""
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            return _first_line(node), cast("int", _last_statement(node).end_lineno) + 1
        found: tuple[int, int] = super().line_range(node)
        return found


class _Part:
    """Statements that share lines with no other part: most often one, or a class without what is in it."""

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
        if self._by_line is None:
            self._by_line = {}
            for node in self._walk():
                for line in executing.executing.node_linenos(node):
                    self._by_line.setdefault(line, []).append(node)
        return self._by_line

    @property
    def qualnames(self) -> dict[tuple[str, int], str]:
        """Qualified names of functions and classes, by name and first line."""
        if self._qualnames is None:
            visitor = executing.executing.QualnameVisitor()
            visitor.stack = list(self._names)
            for node in self._nodes:
                if self._is_head:
                    visitor.add_qualname(node)
                    for child in _around_body(node):
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
            children = _around_body(node) if self._is_head and node is self._nodes[0] else ast.iter_child_nodes(node)
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
        return part.qualnames.get(key, default) if part is not None else default


def _split(body: Sequence[ast.stmt], parent: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[int, int, _Part]]:
    """Yield first line, last line and part, of the statements of a module or class."""
    for group, start, end in _groups(body):
        node = group[0]
        if len(group) == 1 and isinstance(node, ast.ClassDef) and _first_line(node.body[0]) > _head_end(node):
            _set_parent(node, parent)
            yield start, _head_end(node), _Part([node], parent, names, is_head=True)
            yield from _split(node.body, node, (*names, node.name))
        else:
            yield start, end, _Part(group, parent, names, is_head=False)


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


def _around_body(node: Any) -> Iterator[ast.AST]:
    """Yield the children of a class that are not its statements, in the order of its fields."""
    for field, value in ast.iter_fields(node):
        if field != "body" and isinstance(value, list):
            yield from value


def _head_end(node: ast.ClassDef) -> int:
    line: int = max([node.lineno, *(cast("Any", child).end_lineno for child in _around_body(node))])
    return line


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", None)
    line: int = (decorators[0] if decorators else node).lineno
    return line


def _last_statement(node: Any) -> Any:
    while True:
        for field in _BLOCKS:
            block = getattr(node, field, None)
            if block:
                node = block[-1]
                break
        else:
            return node


def _set_parent(node: Any, parent: ast.AST) -> None:
    node.parent = parent
