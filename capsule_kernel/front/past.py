"""Which cells' effects the worker holds, what a way back takes from them, and how that is said."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from capsule_kernel.sessions.session import Session

_KEPT = 1024
_NAMED = 12


class _Ran(msgspec.Struct, frozen=True):
    serial: int
    count: int
    """Its number; 0: it has none, as it was not to be stored."""


class Past:
    """The newest cells that the worker has run, and not gone back from."""

    def __init__(self) -> None:
        self._ran: deque[_Ran] = deque(maxlen=_KEPT)

    def note(self, serial: int, count: int) -> None:
        """Note that request `serial` has run as cell `count`, 0: without a number."""
        self._ran.append(_Ran(serial, count))

    def newest(self, cells: int) -> list[int]:
        """Return the serials of the newest `cells` cells with a number."""
        return [ran.serial for ran in self._ran if ran.count][-cells:]

    def cells_since(self, serial: int) -> int:
        """Return how many cells with a number have run since request `serial`."""
        return sum(bool(ran.count) for ran in self._ran if ran.serial > serial)

    def go_back(self, heir: Session | None) -> list[int]:
        """`heir`, or a worker without state, has taken over: return the numbers of the cells that had run since."""
        since = [ran for ran in self._ran if heir is None or ran.serial > heir.serial]
        for _ in since:
            self._ran.pop()
        return [ran.count for ran in since]


def where_to(sleepers: Sequence[Session], past: Past, cells: int) -> str:
    """Return the nearest ways back by another number of cells than `cells`, each as a sentence; empty: there is none.

    `sleepers`: the snapshots, oldest first.
    """
    moments = {past.cells_since(sleeper.serial): sleeper.count for sleeper in sleepers}
    nearest = [max((n for n in moments if 0 < n < cells), default=0), min((n for n in moments if n > cells), default=0)]
    return "".join(f"; `%undo {n}` goes back to the state {moment_of(moments[n])}" for n in nearest if n)


def moment_of(count: int) -> str:
    """Return in words when a snapshot was taken: `count` is the newest cell that it holds."""
    return f"after cell [{count}]" if count else "from before the first cell"


def what_is_live(heir: Session | None, since: Sequence[int], *, has_cell: bool) -> str:
    """Return what the next cell finds, and what it does not.

    Args:
        heir: the snapshot that has taken over, None for a worker without state.
        since: numbers of the cells that had run since it, 0 for those without one.
        has_cell: whether the worker died in a cell, which is not among them.
    """
    if heir is None:
        return "Its variables are lost; the next cell runs in a fresh worker."
    moment = moment_of(heir.count)
    names = [f"[{count}]" for count in since if count]
    unnamed = len(since) - len(names)
    if len(names) > _NAMED:
        names = [names[0], "…", names[-1]]
    if unnamed:
        names.append("one without a number" if unnamed == 1 else f"{unnamed} without a number")
    live = f"The state {moment} is live again"
    if not names:
        return f"{live}; what this cell changed is lost." if has_cell else f"{live}; what changed since then is lost."
    ran = f"cell {names[0]}" if len(names) == 1 else f"cells {', '.join(names[:-1])} and {names[-1]}"
    who = ("it" if len(names) == 1 else "them") + (" and by this one" if has_cell else "")
    return f"{live}; {ran} had run since then, and what was changed by {who} is lost."
