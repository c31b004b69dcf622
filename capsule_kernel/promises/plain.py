"""Keeps pickles out of what Resonate's SDK reads and writes.

The SDK attaches a pickle to a rejection and loads the one that it finds there: whoever may reject a promise could run
code in the process that awaits it. All values pass its `Encryptor`: here that field is taken off, on both ways. Errors
arrive as `ApplicationError` with their message.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

_PICKLE_KEY = "__py_pickle"


class Encryptor(Protocol):
    """Resonate's seam for encryption."""

    def encrypt(self, data: bytes) -> bytes:
        """Return what is stored for `data`."""

    def decrypt(self, data: bytes) -> bytes:
        """Return what was stored as `data`."""


class PlainValues:
    """An encryptor that takes pickles off.

    Args:
        inner: encrypts in addition; nothing by default.
    """

    def __init__(self, inner: Encryptor | None = None) -> None:
        self._inner = inner

    def encrypt(self, data: bytes) -> bytes:
        """Return what is stored for `data`."""
        plain = without_pickle(data)
        return self._inner.encrypt(plain) if self._inner is not None else plain

    def decrypt(self, data: bytes) -> bytes:
        """Return what was stored as `data`, without a pickle."""
        return without_pickle(self._inner.decrypt(data) if self._inner is not None else data)


def without_pickle(data: bytes) -> bytes:
    """Return a JSON text without the field that the SDK would unpickle; what is no JSON as it is."""
    # Written with escapes, the field's name is not visible.
    if _PICKLE_KEY.encode() not in data and b"\\" not in data:
        return data
    try:
        value = msgspec.json.decode(data)
    except msgspec.MsgspecError:
        return data  # the SDK refuses it
    if not isinstance(value, dict) or _PICKLE_KEY not in value:
        return data
    del value[_PICKLE_KEY]
    return msgspec.json.encode(value)
