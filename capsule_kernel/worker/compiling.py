"""From a cell's text to code: its mode, its file name, and the cache of what was compiled.

Modes, and what each changes:

| mode | the loop | an interrupt |
|---|---|---|
| `TOP_LEVEL_AWAIT` | runs; the cell is a task on it, beside other tasks | cancels the await, as KeyboardInterrupt |
| `ASYNC_DEF`, `SIMPLE_SYNC` | has stepped aside (see `loop`) | KeyboardInterrupt where the code stands |
| `BLOCKING_SYNC` | has stepped aside | as above, and the signal wakes the call that blocks |
| `UNKNOWN` | has stepped aside; IPython reports what does not parse | as above |

In every mode the reader thread serves completion and inspection meanwhile, and `await` is allowed where IPython's
`autoawait` is on. The cache's key has no mode in it: transformed text, file name, interactivity, compiler flags.
`UNKNOWN` is never compiled here.
"""

from __future__ import annotations

import ast
import enum
import inspect
import linecache
import os
import re
import struct
from collections import OrderedDict
from types import CodeType
from typing import Any

from IPython.core.compilerop import CachingCompiler

from capsule_kernel.quiet import ignoring

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
        # The one who compiles it says them.
        with ignoring(SyntaxWarning):
            tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ExecutionMode.UNKNOWN
    finder = _AwaitFinder()
    finder.visit(tree)
    if finder.awaits:
        return ExecutionMode.TOP_LEVEL_AWAIT
    return ExecutionMode.ASYNC_DEF if finder.has_async_def else ExecutionMode.SIMPLE_SYNC


_WARNED_OF = re.compile(
    r"""\\[^\\\n\r'"abfnrtvxuUN0-7]"""  # an escape that is none
    r"""|\\[4-7][0-7]{2}"""  # one beyond a byte
    r"""|\bis\s+(?:not\s+)?[-\d'"(\[{]|[\d'")\]}]\s+is\b"""  # identity with a literal
    r"""|\bassert\s*\("""  # of a tuple
    r"""|\d(?:and|or|if|in|is|else|for|not)\b"""  # a number that runs into a word
    r"""|['"\])}\d]\s*[\[(]"""  # a literal that is called or indexed
)


def may_warn(code: str) -> bool:
    """Return whether the compiler may warn of something in `code` (SyntaxWarning); False is certain, True is not."""
    return _WARNED_OF.search(code) is not None


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
    """Return the 32-bit MurmurHash2 of `text` in UTF-8, lone surrogates as U+FFFD, as Jupyter's debuggers have it.

    Source: Appleby, MurmurHash2; Jupyter messaging, "debugInfo" (`hashMethod`).
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
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


class CellCompiler(CachingCompiler):
    """IPython's compiler with the file names that debuggers expect and a cache of what was compiled."""

    cell_prefix = ""
    cache_size = 512

    def __init__(self) -> None:
        super().__init__()
        self._parsed: tuple[str, ast.AST] | None = None
        self._named: tuple[str, str] = ("", "")
        self._codes: OrderedDict[tuple[str, str, str, int], list[tuple[CodeType, bool]]] = OrderedDict()

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        """Return the file name of a cell: the same text has the same name."""
        given = os.environ.get("IPYKERNEL_CELL_NAME")
        if given is not None:
            return given
        named = self._named
        if named[0] != raw_code:
            self._named = named = (raw_code, f"{self.cell_prefix}{murmur2(raw_code, CELL_NAME_SEED)}.py")
        return named[1]

    def parses(self, source: str, raw_code: str) -> bool:
        """Return whether `source` is Python, and keep the tree for the `ast_parse` that follows."""
        name = self.get_code_name(raw_code, source, 0)
        try:
            self._parsed = (source, super().ast_parse(source, filename=name))
        except (SyntaxError, ValueError, TypeError, OverflowError, MemoryError, RecursionError):
            # The slow way finds the same and says it to the user.
            self._parsed = None
        return self._parsed is not None

    def ast_parse(self, source: str, filename: str = "<unknown>", symbol: str = "exec") -> Any:
        """Parse `source`, or return the tree that `parses` made of it."""
        parsed, self._parsed = self._parsed, None
        if parsed is not None and parsed[0] == source and symbol == "exec":
            return parsed[1]
        return super().ast_parse(source, filename, symbol)

    def forget(self, name: str) -> None:
        """Keep nothing of the cell with the file name `name`."""
        linecache.cache.pop(name, None)
        self._filename_map.pop(name, None)

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
        plain, interactive = split_for_display(nodes, interactivity)
        with self.extra_flags(PyCF_ALLOW_TOP_LEVEL_AWAIT if may_await else 0):
            codes = [self._with_kind(ast.Module([node], []), cell_name, "exec") for node in plain]
            codes += [self._with_kind(ast.Interactive([node]), cell_name, "single") for node in interactive]
        return codes

    def _with_kind(self, tree: ast.Module | ast.Interactive, cell_name: str, mode: str) -> tuple[CodeType, bool]:
        code: Any = self(tree, cell_name, mode)  # type: ignore[arg-type]  # typeshed's `Compile` takes texts only
        return code, bool(code.co_flags & inspect.CO_COROUTINE)


_ASSIGNMENTS = (ast.AugAssign, ast.AnnAssign)


def split_for_display(nodes: list[ast.stmt], interactivity: str) -> tuple[list[ast.stmt], list[ast.stmt]]:
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
            expected = "all, last, last_expr, none or last_expr_or_assign"
            raise ValueError(f"ast_node_interactivity is {interactivity!r}: expected {expected}")
