"""How much memory sleeping snapshots may take, decided from figures alone.

They may hold a quarter of what the kernel may use, and none of what is left when little is left: the oldest die first,
and all of them before the worker does. Who measures, and who ends them, is not known here.
"""

from __future__ import annotations

import msgspec

SHARE = 0.25
"""Part of the memory that may be used, which snapshots may hold at most."""

LOW = 0.10
"""Part of it that must be left: with less, only the newest snapshot stays."""

CRITICAL = 0.04
"""With less than this left, none stays: the next to go would be the worker."""


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that the kernel has, in bytes."""

    usable_bytes: int
    """What it may use in all: the machine's memory, or the smallest limit of its control groups."""
    left_bytes: int
    """What can be had before that limit, caches that would be given up included."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What sleeping snapshots hold, in bytes."""

    private_bytes: list[int]
    """Each one's pages that no other process has, oldest first."""
    total_bytes: int
    """What all of them hold together and the worker has not: what would come back if they ended."""


def budget_bytes(room: Room, cap_bytes: int) -> int:
    """Return what snapshots may hold together; `cap_bytes` is what the settings allow, 0: as much as there may be."""
    share = int(room.usable_bytes * SHARE)
    return min(cap_bytes, share) if cap_bytes else share


def count_to_drop(held: Held, room: Room, cap_bytes: int) -> int:
    """Return how many of the oldest snapshots must end now.

    Pages that several snapshots hold come back only with the last of them: after each end it is measured again, unless
    their private pages tell that one is not enough.
    """
    count = len(held.private_bytes)
    if room.left_bytes < room.usable_bytes * CRITICAL:
        return count
    excess = held.total_bytes - budget_bytes(room, cap_bytes)
    dropped = 0
    while excess > 0 and dropped < count:
        private = held.private_bytes[dropped]
        dropped += 1
        if not private:
            break
        excess -= private
    if room.left_bytes < room.usable_bytes * LOW:
        return max(dropped, count - 1)
    return dropped
