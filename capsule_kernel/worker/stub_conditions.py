"""Conditions of type stubs, decided as Jedi decides them, and without what it reads for that.

What a stub holds depends on `sys.version_info` and `sys.platform` (the typing documentation, "Version and platform
checking"). Jedi infers these like all else: for the first name that it completes it reads the stubs of `sys`, `typing`,
`_typeshed` and `typing_extensions` and two modules beside `builtins`, which is half of that completion's time and a
third of its memory. What comes out is known beforehand: a comparison of the version with a tuple of integers is true or
false, one of the platform with a text leaves Jedi unsure (to it, `sys.platform` is some text).
"""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Callable
from typing import Any

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EQUALITIES = ("==", "!=")


@functools.cache
def hasten() -> bool:
    """Have Jedi use this from now on; return whether it is there, and as it is known."""
    try:
        flow: Any = importlib.import_module("jedi.inference.flow_analysis")
    except ImportError:
        return False
    infer = getattr(flow, "_check_if", None)
    statuses = [getattr(flow, name, None) for name in ("REACHABLE", "UNREACHABLE", "UNSURE")]
    if infer is None or None in statuses:
        return False
    reachable, unreachable, unsure = statuses
    by_answer = {True: reachable, False: unreachable, None: unsure}

    def check_if(context: Any, node: Any) -> Any:
        if node.type == "comparison" and context.get_root_context().is_stub():
            version_info = tuple(context.inference_state.environment.version_info)
            try:
                return by_answer[decide(node, version_info)]
            except LookupError:
                pass
        return infer(context, node)

    flow._check_if = check_if  # noqa: SLF001 - what this is for
    return True


def decide(comparison: Any, version_info: tuple[int, ...]) -> bool | None:
    """Return whether a condition holds, or None where Jedi can't know.

    Args:
        comparison: a node of parso's tree, of the type "comparison"
        version_info: major, minor and micro, as Jedi has them

    Raises:
        LookupError: this is none of the conditions that are known here.
    """
    left, sign, right = map(_text, comparison.children) if len(comparison.children) == 3 else ("", "", "")
    if left == "sys.version_info" and sign in _COMPARISONS:
        return _COMPARISONS[sign](version_info, _integers(right))
    if left == "sys.platform" and sign in _EQUALITIES and comparison.children[2].type == "string":
        return None
    msg = f"not a comparison of the version or the platform: {left} {sign} {right}"
    raise LookupError(msg)


def _text(node: Any) -> str:
    return str(node.get_code(include_prefix=False))


def _integers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.removeprefix("(").removesuffix(")").split(",")]
    if not (text.startswith("(") and text.endswith(")")) or not all(part.isdecimal() for part in parts if part):
        msg = f"not a tuple of integers: {text}"
        raise LookupError(msg)
    return tuple(int(part) for part in parts if part)
