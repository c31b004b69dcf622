"""Which names a cell may read: what a run that is resumed needs, and must not go without silently. Pure.

The answer errs on the side of more: code that can reach any name (`exec`, `globals()`, magics) may read all of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import NamedTuple

REACHES_ALL = frozenset({"exec", "eval", "globals", "locals", "vars", "dir", "get_ipython", "compile", "__import__"})
"""What can read a name that is not written down."""
_MAGIC = re.compile(r"^\s*(%|!|\?)|\?\s*$", re.MULTILINE)
_HARMLESS_MAGIC = re.compile(r"^\s*(%matplotlib|%load_ext|%config|%pip|%cd|%pwd|!).*$", re.MULTILINE)
_BRACED = re.compile(r"[{$]")


class Need(NamedTuple):
    """What one cell may read.

    Attributes:
        names: those that it may read; None: perhaps any.
        assigned: those that earlier cells have assigned for sure.
    """

    names: frozenset[str] | None
    assigned: frozenset[str]


def names_read(sources: Iterable[str]) -> frozenset[str] | None:
    """Return the names that code may read before it has assigned them itself; None: perhaps any.

    Args:
        sources: cells, in the order in which they will run.
    """
    found: set[str] = set()
    for need in needs_of(sources):
        if need.names is None:
            return None
        found |= need.names - need.assigned
    return frozenset(found)


def needs_of(sources: Iterable[str]) -> list[Need]:
    """Return what each cell may read, and what it need not have from before."""
    needs: list[Need] = []
    assigned: set[str] = set()
    for source in sources:
        names, fresh = _cell(source)
        needs.append(Need(names, frozenset(assigned)))
        assigned |= fresh
    return needs


def _cell(source: str) -> tuple[frozenset[str] | None, set[str]]:
    text = _HARMLESS_MAGIC.sub(lambda match: match[0] if _BRACED.search(match[0]) else "pass", source)
    if _MAGIC.search(text):
        return None, set()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        # It will fail in the run as well, if Python does not understand it either.
        return None, set()
    reads = _reads(tree)
    return None if reads & REACHES_ALL else frozenset(reads), _surely_assigned(tree)


def _reads(tree: ast.AST) -> set[str]:
    """Return all names that are loaded, deleted or changed in place anywhere in the code."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import):
            # The notebook's own module has every name as an attribute.
            names |= {"globals" for alias in node.names if alias.name == "__main__"}
        elif isinstance(node, ast.ImportFrom) and node.module == "__main__":
            names |= {alias.name for alias in node.names}
    return names


def _surely_assigned(tree: ast.Module) -> set[str]:
    """Return the names that the cell has assigned when it ended well: only what stands at its top level counts."""
    names: set[str] = set()
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=targets):
                for target in targets:
                    names |= {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case _:
                continue
    return names
