"""Which checkpoints to keep: a decision from a list and the time to a list, without a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


class Kept(Protocol):
    """What retention has to know of a checkpoint."""

    @property
    def id(self) -> int:
        """Its number: a later one is larger."""
        ...

    @property
    def session(self) -> str:
        """Whose it is."""
        ...

    @property
    def created_ms(self) -> int:
        """When it was taken, since 1970 (UTC)."""
        ...

    @property
    def label(self) -> str:
        """The name that a person gave it, or nothing."""
        ...


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is kept. Checkpoints with a label are, until a person deletes them."""

    newest: int = 20
    """So many of each session, however old; then"""
    hourly_ms: int = _DAY_MS
    """one an hour until this age,"""
    daily_ms: int = 30 * _DAY_MS
    """one a day until this one; and of a session that old the newest only, until"""
    session_ms: int = 180 * _DAY_MS
    """this age."""


def expired(checkpoints: Sequence[Kept], now_ms: int, policy: Policy) -> list[int]:
    """Return the numbers of the checkpoints that the policy gives up."""
    gone: list[int] = []
    for session in dict.fromkeys(item.session for item in checkpoints):
        unnamed = [item for item in checkpoints if item.session == session and not item.label]
        unnamed.sort(key=lambda item: item.id, reverse=True)
        seen: set[tuple[str, int]] = set()
        for place, item in enumerate(unnamed):
            age_ms = now_ms - item.created_ms
            if age_ms > policy.session_ms:
                gone.append(item.id)
            elif place >= policy.newest or (place > 0 and age_ms > policy.daily_ms):
                slot = ("hour", item.created_ms // _HOUR_MS)
                if age_ms > policy.hourly_ms:
                    slot = ("day", item.created_ms // _DAY_MS)
                if age_ms > policy.daily_ms or slot in seen:
                    gone.append(item.id)
                seen.add(slot)
    return sorted(gone)


def first_to_go(checkpoints: Sequence[Kept]) -> list[int]:
    """Return the numbers of what may be given up for room, in that order.

    Oldest first, the newest of each session after all others. Labelled ones stay.
    """
    newest = {item.session: item.id for item in sorted(checkpoints, key=lambda item: item.id)}
    unnamed = [item for item in checkpoints if not item.label]
    unnamed.sort(key=lambda item: (newest[item.session] == item.id, item.id))
    return [item.id for item in unnamed]
