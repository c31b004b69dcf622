"""Completion and inspection, in the reader thread, with the live namespace, while the main thread does what it does.

Sources: Jupyter messaging, "Completion" and "Introspection"; `_jupyter_types_experimental` as ipykernel sends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.utils.tokenutil import token_at_cursor

from capsule_kernel.worker.used_names import hasten

TYPES_KEY = "_jupyter_types_experimental"


def complete(shell: Any, code: str, cursor_pos: int | None) -> dict[str, Any]:
    """Return the content of a `complete_reply`."""
    cursor = len(code) if cursor_pos is None else cursor_pos
    if shell.Completer.use_jedi:
        hasten()
    with provisionalcompleter():
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
