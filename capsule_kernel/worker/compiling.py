"""From a cell's text to code: its mode, its file name, and the cache of what was compiled.

Modes, and what each changes:

| mode | the loop | an interrupt | comms and completion meanwhile | compiled |
|---|---|---|---|---|
| `TOP_LEVEL_AWAIT` | runs, the cell is a task on it | cancels the await, as KeyboardInterrupt | comms at awaits | await allowed |
| `ASYNC_DEF` | stepped aside | KeyboardInterrupt where the code stands | reader thread | await allowed |
| `BLOCKING_SYNC` | stepped aside | as above, a blocking call returns with EINTR first | reader thread | as plain code |
| `SIMPLE_SYNC` | stepped aside | as above | reader thread | as plain code |
| `UNKNOWN` | stepped aside (it does not parse: IPython reports it) | as above | reader thread | not cached |

The reader thread serves completion in every mode; BLOCKING_SYNC differs from SIMPLE_SYNC in that output is asked for at
once at the first tick even when the GIL was just given up.
"""

from __future__ import annotations

import ast
import enum
import inspect
import os
import struct
from collections import OrderedDict
from types import CodeType
from typing import Any

from IPython.core.compilerop import CachingCompiler

PyCF_ALLOW_TOP_LEVEL_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
CELL_NAME_SEED = 0xC70F6907
"""Seed of the hash in a cell's file name, which debuggers compute as well (`debugInfo`, `hashSeed`)."""

_BLOCKING_CALLS = frozenset(
    {"time.sleep", "input", "requests.get", "requests.post", "subprocess.run", "subprocess.check_output", "os.system"}
)


class ExecutionMode(enum.Enum):
    """How a cell is run."""

    TOP_LEVEL_AWAIT = "top_level_await"
    ASYNC_DEF = "async_def"
    BLOCKING_SYNC = "blocking_sync"
    SIMPLE_SYNC = "simple_sync"
    UNKNOWN = "unknown"


def detect_mode(source: str) -> ExecutionMode:
    """Return the mode of a cell that has been through IPython's input transforms."""
    if "async" not in source and "await" not in source:
        # No parse for most cells: without either word nothing can await.
        return (
            ExecutionMode.BLOCKING_SYNC
            if any(call in source for call in _BLOCKING_CALLS)
            else ExecutionMode.SIMPLE_SYNC
        )
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ExecutionMode.UNKNOWN
    finder = _AwaitFinder()
    finder.visit(tree)
    if finder.awaits:
        return ExecutionMode.TOP_LEVEL_AWAIT
    return ExecutionMode.ASYNC_DEF if finder.has_async_def else ExecutionMode.SIMPLE_SYNC


class _AwaitFinder(ast.NodeVisitor):
    """Finds what awaits outside of any function."""

    def __init__(self) -> None:
        self.awaits = False
        self.has_async_def = False

    def visit_Await(self, node: ast.Await) -> None:
        self.awaits = True
        self.generic_visit(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self.awaits = True
        self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self.awaits = True
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.awaits = self.awaits or bool(node.is_async)
        self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.has_async_def = True
        self._visit_outside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_outside(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        # Its first iterable is evaluated outside; the rest when it is consumed.
        self.visit(node.generators[0].iter)

    def _visit_outside(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Visit what is evaluated where the function is defined."""
        for outside in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if outside is not None:
                self.visit(outside)


def murmur2(text: str, seed: int) -> int:
    """Return the 32-bit MurmurHash2 of `text`, one byte a character as Jupyter's debuggers have it.

    Source: Appleby, MurmurHash2; Jupyter messaging, "debugInfo" (`hashMethod`).
    """
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        data = text.encode("utf-32-le", "surrogatepass")[::4]
    multiplier = 0x5BD1E995
    mask = 0xFFFFFFFF
    length = len(data)
    result = (seed ^ length) & mask
    words = length // 4
    for word in struct.unpack_from(f"<{words}I", data):
        mixed = (word * multiplier) & mask
        mixed = ((mixed ^ mixed >> 24) * multiplier) & mask
        result = ((result * multiplier) & mask) ^ mixed
    rest = data[words * 4 :]
    if rest:
        result = ((result ^ int.from_bytes(rest, "little")) * multiplier) & mask
    result = ((result ^ result >> 13) * multiplier) & mask
    return result ^ result >> 15


class CellCompiler(CachingCompiler):  # type: ignore[misc]
    """IPython's compiler with the file names that debuggers expect and a cache of what was compiled."""

    cell_prefix = ""
    cache_size = 512

    def __init__(self) -> None:
        super().__init__()
        self._codes: OrderedDict[tuple[str, str, str, int], list[tuple[CodeType, bool]]] = OrderedDict()

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        """Return the file name of a cell: the same text has the same name."""
        given = os.environ.get("IPYKERNEL_CELL_NAME")
        if given is not None:
            return given
        return f"{self.cell_prefix}{murmur2(raw_code, CELL_NAME_SEED)}.py"

    def compile_cell(
        self, nodes: list[ast.stmt], cell_name: str, interactivity: str, *, source: str, may_await: bool
    ) -> list[tuple[CodeType, bool]]:
        """Return the cell's code objects, each with whether it awaits.

        One object a statement, as IPython does it, so that a failing statement does not undo its predecessors' display.

        Raises:
            SyntaxError: what parses but cannot be compiled, for example a `return` outside a function.
        """
        flags = self.flags | (PyCF_ALLOW_TOP_LEVEL_AWAIT if may_await else 0)
        key = (source, cell_name, interactivity, flags)
        if source and key in self._codes:
            self._codes.move_to_end(key)
            return self._codes[key]
        codes = self._compile(nodes, cell_name, interactivity, may_await=may_await)
        if source and self.cache_size > 0:
            self._codes[key] = codes
            if len(self._codes) > self.cache_size:
                self._codes.popitem(last=False)
        return codes

    def _compile(
        self, nodes: list[ast.stmt], cell_name: str, interactivity: str, *, may_await: bool
    ) -> list[tuple[CodeType, bool]]:
        plain, interactive = _split(nodes, interactivity)
        codes: list[tuple[CodeType, bool]] = []
        with self.extra_flags(PyCF_ALLOW_TOP_LEVEL_AWAIT if may_await else 0):
            for node in plain:
                codes.append(self._with_kind(ast.Module([node], []), cell_name, "exec"))
            for node in interactive:
                codes.append(self._with_kind(ast.Interactive([node]), cell_name, "single"))
        return codes

    def _with_kind(self, tree: ast.Module | ast.Interactive, cell_name: str, mode: str) -> tuple[CodeType, bool]:
        code: Any = self(tree, cell_name, mode)
        return code, bool(code.co_flags & inspect.CO_COROUTINE)


_ASSIGNMENTS = (ast.AugAssign, ast.AnnAssign)


def _split(nodes: list[ast.stmt], interactivity: str) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Return the statements to run and those to run and display, for IPython's `ast_node_interactivity`."""
    if interactivity == "last_expr_or_assign":
        last = nodes[-1]
        target: ast.expr | None = None
        if isinstance(last, ast.Assign) and len(last.targets) == 1:
            target = last.targets[0]
        elif isinstance(last, _ASSIGNMENTS):
            target = last.target
        if isinstance(target, ast.Name):
            shown = ast.Expr(ast.Name(target.id, ast.Load()))
            ast.copy_location(shown, last)
            ast.fix_missing_locations(shown)
            nodes = [*nodes, shown]
        interactivity = "last_expr"
    if interactivity == "last_expr":
        interactivity = "last" if isinstance(nodes[-1], ast.Expr) else "none"
    match interactivity:
        case "none":
            return nodes, []
        case "last":
            return nodes[:-1], nodes[-1:]
        case "all":
            return [], nodes
        case _:
            raise ValueError(
                f"ast_node_interactivity is {interactivity!r}: expected all, last, last_expr, none or last_expr_or_assign"
            )
