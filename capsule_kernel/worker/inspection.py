"""Completion and inspection, in the reader thread, with the live namespace, while the main thread does what it does.

Sources: Jupyter messaging, "Completion" and "Introspection"; `_jupyter_types_experimental` as ipykernel sends it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from IPython.core import completer
from IPython.core.completer import ProvisionalCompleterWarning, rectify_completions
from IPython.utils.tokenutil import token_at_cursor

from capsule_kernel.postponed import postponed
from capsule_kernel.worker import stub_conditions, used_names

TYPES_KEY = "_jupyter_types_experimental"


class _Warnings:
    """In the place of `warnings` within IPython's completer: says nothing of what is provisional where we ask.

    `provisionalcompleter` changes the process's filters and puts them back: in this thread that would take away what
    a cell has set meanwhile, and a cell's own `catch_warnings` would take away ours.
    """

    def __init__(self) -> None:
        self.asking = threading.local()

    def __getattr__(self, name: str) -> Any:
        """Return what the module has."""
        return getattr(warnings, name)

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, **options: Any) -> None:
        """Warn as the module does."""
        if category is ProvisionalCompleterWarning and getattr(self.asking, "is_ours", False):
            return
        warnings.warn(message, category, stacklevel + 1, **options)


_WARNINGS = _Warnings()
vars(completer)["warnings"] = _WARNINGS


class _Collector:
    """In the place of `gc` within parso's cache, which enables collection whenever it has read a file of its own."""

    def __init__(self) -> None:
        self._was_enabled = True

    def disable(self) -> None:
        """As `gc.disable`."""
        self._was_enabled = gc.isenabled()
        gc.disable()

    def enable(self) -> None:
        """As `gc.enable`, unless it was disabled before."""
        if self._was_enabled:
            gc.enable()


@contextlib.contextmanager
def _provisional_names() -> Iterator[None]:
    _WARNINGS.asking.is_ours = True
    try:
        yield
    finally:
        _WARNINGS.asking.is_ours = False


@functools.cache
def _prepare_jedi() -> None:
    """Import Jedi, and have it answer the first request in half of its time."""
    with contextlib.suppress(ImportError), postponed("pydoc"):
        importlib.import_module("jedi")
        vars(importlib.import_module("parso.cache"))["gc"] = _Collector()
    used_names.hasten()
    stub_conditions.hasten()


def complete(shell: Any, code: str, cursor_pos: int | None) -> dict[str, Any]:
    """Return the content of a `complete_reply`."""
    cursor = len(code) if cursor_pos is None else cursor_pos
    if shell.Completer.use_jedi:
        _prepare_jedi()
    with _provisional_names():
        found = list(rectify_completions(code, shell.Completer.completions(code, cursor)))
    types = [
        {"start": item.start, "end": item.end, "text": item.text, "type": item.type, "signature": item.signature}
        for item in found
    ]
    return {
        "status": "ok",
        "matches": [item.text for item in found],
        "cursor_start": found[0].start if found else cursor,
        "cursor_end": found[0].end if found else cursor,
        "metadata": {TYPES_KEY: types},
    }


def inspect(
    shell: Any, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the content of an `inspect_reply`."""
    content: dict[str, Any] = {"status": "ok", "found": False, "data": {}, "metadata": {}}
    name = token_at_cursor(code, cursor_pos)
    try:
        data = shell.object_inspect_mime(name, detail_level=detail_level, omit_sections=omit_sections)
    except KeyError:
        return content
    if not shell.enable_html_pager:
        data.pop("text/html", None)
    return {**content, "found": True, "data": data}
