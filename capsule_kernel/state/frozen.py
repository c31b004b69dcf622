"""Whether user code has frozen objects (`gc.freeze`): `gc.get_referrers` sees nothing of them."""

from __future__ import annotations

import gc

_at_start = [0]


def note_start() -> None:
    """Note how much is frozen before user code runs."""
    _at_start[0] = gc.get_freeze_count()


def has_grown() -> bool:
    """Return whether more is frozen than at the start."""
    return gc.get_freeze_count() > _at_start[0]
