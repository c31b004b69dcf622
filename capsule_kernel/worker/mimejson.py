"""JSON for contents that user code shapes: lenient about what Python puts into MIME bundles."""

from __future__ import annotations

import base64
import json
import numbers
from datetime import datetime
from typing import Any

import msgspec


def _plain(value: Any) -> Any:
    """Return something that JSON has in place of `value`."""
    if isinstance(value, str):
        # A class derived from it, such as markupsafe's.
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return dict(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        # A scalar of numpy's.
        return value.item()
    if isinstance(value, set | frozenset | tuple) or hasattr(value, "__iter__"):
        return list(value)
    return repr(value)


_fast = msgspec.json.Encoder(enc_hook=_plain).encode


def encode_content(content: dict[str, Any]) -> bytes:
    """Return `content` as JSON: bytes as base64, NaN as null, numbers of numpy as numbers, lone surrogates as `?`."""
    try:
        return _fast(content)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError, msgspec.MsgspecError):
        text = json.dumps(_cleaned(content), ensure_ascii=False)
        return text.encode("utf-8", "replace")


def _cleaned(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None  # noqa: PLR0124 - NaN
    if isinstance(value, dict):
        return {str(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(item) for item in value]
    try:
        built = msgspec.to_builtins(value, enc_hook=_plain)
    except (TypeError, ValueError, OverflowError):
        built = _plain(value)
    return _cleaned(built)
