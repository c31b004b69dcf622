"""A run's parameters: values that stand in for those of the notebook's cell with the tag `parameters`.

As papermill has it: they are assigned in a cell of their own (tag `injected-parameters`) right after that one, at the
top where there is none, and in the place of the one that an earlier run has left.
"""

import ast
import math
from collections.abc import Mapping
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from capsule_kernel.errors import NotebookError

PARAMETERS_TAG = "parameters"
INJECTED_TAG = "injected-parameters"


def parse(text: str) -> tuple[str, Any]:
    """Return name and value of `name=value`; the value is a Python literal, or else the text itself.

    Raises:
        ValueError: there is no `=`, or the name is none in Python.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r}: expected NAME=VALUE")
    if not _is_assignable(name):
        raise ValueError(f"{name!r} is not a name in Python; expected NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value


def inject(notebook: NotebookNode, parameters: Mapping[str, Any], *, name: str) -> list[str]:
    """Assign the parameters in `notebook`; return those that its cell of parameters does not name.

    Raises:
        NotebookError: a notebook in another language, `name` in the error.
    """
    language = notebook.metadata.get("kernelspec", {}).get("language", "python")
    if str(language).lower() not in {"python", "ipython"}:
        raise NotebookError(name, f"written for {language}: parameters can be given to Python only")
    lines = [f"{each} = {_literal(value)}" for each, value in parameters.items()]
    injected = new_code_cell("\n".join(["# Parameters", *lines]), metadata={"tags": [INJECTED_TAG]})
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        del injected["id"]
    cells = notebook.cells
    given, earlier = _tagged(cells, PARAMETERS_TAG), _tagged(cells, INJECTED_TAG)
    if earlier is not None:
        cells[earlier] = injected
    else:
        cells.insert(0 if given is None else given + 1, injected)
    known = set() if given is None else _assigned(cells[given].source)
    return [each for each in parameters if each not in known] if given is not None else []


def _is_assignable(name: str) -> bool:
    if not name.isidentifier():
        return False
    try:
        # Keywords are not, nor is `__debug__`; other ways to write their letters are the same name.
        compile(f"{name} = 0", "<name>", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _literal(value: Any) -> str:
    """Return the code of a value, the same in each process: a cell that differs would count as changed."""
    kind = type(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if kind is complex:
        is_finite = math.isfinite(value.real) and math.isfinite(value.imag)
        return repr(value) if is_finite else f"complex({_literal(value.real)}, {_literal(value.imag)})"
    if kind is dict:
        return "{" + ", ".join(f"{_literal(key)}: {_literal(each)}" for key, each in value.items()) + "}"
    if kind is list:
        return f"[{', '.join(map(_literal, value))}]"
    if kind is tuple:
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if kind in {set, frozenset} and value:
        # Texts have another order in a set in each process.
        items = f"{{{', '.join(map(_literal, sorted(value, key=_rank)))}}}"
        return items if kind is set else f"frozenset({items})"
    return repr(value)


def _rank(value: Any) -> tuple[str, float, str]:
    """Return where a value stands in a set that is written: numbers by their size, others by their code."""
    if isinstance(value, int | float):
        try:
            return "", float(value), repr(value)
        except OverflowError:
            pass
    return type(value).__name__, 0.0, _literal(value)


def _tagged(cells: list[NotebookNode], tag: str) -> int | None:
    return next((index for index, cell in enumerate(cells) if tag in cell.metadata.get("tags", [])), None)


def _assigned(source: str) -> set[str]:
    """Return the names that the code assigns; none where it is more than Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
