"""Silence for a moment, without a trace."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def ignoring(category: type[Warning]) -> Iterator[None]:
    """Ignore warnings of a category in the block.

    `warnings.catch_warnings` does more: it has Python forget which warnings it has shown, so that user code's come
    again.
    """
    filters = warnings.filters
    entry = ("ignore", None, category, None, 0)
    filters.insert(0, entry)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        # Unless somebody has reset them.
        with contextlib.suppress(ValueError):
            filters.remove(entry)  # type: ignore[attr-defined]
