"""Which names a cell may read: what a run that is resumed needs, and must not go without silently. Pure.

The answer errs on the side of more: code that can reach any name (`exec`, `globals()`, magics) may read all of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

_REACHES_ALL = frozenset({"exec", "eval", "globals", "locals", "vars", "dir", "get_ipython", "compile", "__import__"})
_MAGIC = re.compile(r"^\s*(%|!|\?)|\?\s*$", re.MULTILINE)
_HARMLESS_MAGIC = re.compile(r"^\s*(%matplotlib|%load_ext|%config|%pip|%cd|%pwd|!).*$", re.MULTILINE)
_BRACED = re.compile(r"[{$]")


def names_read(sources: Iterable[str]) -> frozenset[str] | None:
    """Return the names that code may read before it has assigned them itself; None: perhaps any.

    Args:
        sources: cells, in the order in which they will run.
    """
    found: set[str] = set()
    assigned: set[str] = set()
    for source in sources:
        text = _HARMLESS_MAGIC.sub(lambda match: match[0] if _BRACED.search(match[0]) else "pass", source)
        if _MAGIC.search(text):
            return None
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            # It will fail in the run as well, if Python does not understand it either.
            return None
        reads = _reads(tree)
        if reads & _REACHES_ALL:
            return None
        found |= reads - assigned
        assigned |= _surely_assigned(tree)
    return frozenset(found)


def _reads(tree: ast.AST) -> set[str]:
    """Return all names that are loaded, deleted or changed in place anywhere in the code."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
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
