"""What may differ between two runs of one notebook on one kernel: addresses, times, temporary names, random ids."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_NUMBER = r"[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?"
_MASKS: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), mask)
    for pattern, mask in (
        # Cells' file names contain the process id of the kernel.
        (r"/tmp/ipykernel_\d+/\d+\.py", "/tmp/ipykernel_N/N.py"),
        (r"/tmp/[\w.-]*tmp[\w.-]+|/tmp/pytest-[\w/.-]+", "/tmp/TMP"),
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
        (r"\b[0-9a-f]{32}\b", "HEX32"),
        (r"0x[0-9a-f]{6,}", "0xADDRESS"),
        (r"\bid=\d{9,}", "id=ADDRESS"),
        # Matplotlib's SVG: ids made from a hash with a random salt.
        (r"\b[a-z][0-9a-f]{10}\b", "SVGID"),
        # pandas' Styler.
        (r"\bT_[0-9a-f]{5}", "T_ID"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?", "DATETIME"),
        (r"\b\d?\d:\d\d(?::\d\d)?(?:\.\d+)?\b", "CLOCK"),
        (rf"(?<![\[;\d.]){_NUMBER} ?(?:ns|[µμu]s|ms|s|sec|secs|seconds?|min|minutes?|it/s)\b", "DURATION"),
        (r"(?:\[1m)?\d+(?:\.\d+)? ?(?:it|s|[a-zA-Z]+)/s\b", "RATE"),
        (r"\b\d+ ticks\b", "TICKS"),
        # %timeit chooses them by the time that one takes.
        (r"\d[\d,]* (?:loops?|runs?) each", "LOOPS"),
    )
]


def masked(value: Any, folder: str) -> Any:
    """Return a JSON value with masks in its texts; `folder` is where the notebook ran."""
    match value:
        case str():
            text = value.replace(folder, "/FOLDER")
            for pattern, mask in _MASKS:
                text = pattern.sub(mask, text)
            return text
        case dict():
            return {key: _masked_member(key, item, folder) for key, item in value.items()}
        case list() | tuple():
            return [masked(item, folder) for item in value]
        case _:
            return value


def _masked_member(key: str, item: Any, folder: str) -> Any:
    if key.startswith("image/") and key != "image/svg+xml":
        # Base64: nothing in it can be masked.
        return item
    return masked(item, folder)
