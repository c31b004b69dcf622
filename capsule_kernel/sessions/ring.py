"""Sleeping snapshots, newest last, thinned with age: what undo and crashes go back to."""

from __future__ import annotations

from collections.abc import Sequence

from capsule_kernel.sessions.session import Session


def thin(ages: Sequence[int], limit: int) -> list[int]:
    """Return which snapshots are to be dropped so that `limit` are left, by their place in `ages`.

    The newer half stays. Of the older half goes the one that is missed least: whose next older neighbour is near,
    beside its own age. So gaps grow with age, and the oldest goes when the gaps before it have grown.

    Args:
        ages: by how many cells each snapshot is behind the newest, which comes first.
        limit: how many may stay.
    """
    kept = list(range(len(ages)))
    newer = (max(limit, 0) + 1) // 2
    while len(kept) > max(limit, 0):
        kept.remove(min(kept[newer:], key=lambda place: _loss(ages, kept, place)))
    return [place for place in range(len(ages)) if place not in kept]


def _loss(ages: Sequence[int], kept: Sequence[int], place: int) -> float:
    """Return how much further back who wanted to this snapshot would have to go, beside how far that was."""
    if place == kept[-1]:
        return _LOSS_OF_OLDEST
    older = kept[kept.index(place) + 1]
    return (ages[older] - ages[place]) / (1 + ages[place])


_LOSS_OF_OLDEST = 0.45


RESUMES = 2
"""How often a cell goes on from the same call of `checkpoint()`."""


class Ring:
    """The sleeping snapshots of a kernel."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sleepers: list[Session] = []
        # In the middle of the running cell, and how often a worker was that already.
        self._middle: Session | None = None
        self._resumes = self._ordinal = 0
        # The request after which an attempt began that is not decided.
        self._pinned: int | None = None

    def __repr__(self) -> str:
        return f"<Ring of {[sleeper.count for sleeper in self._sleepers]}, limit {self._limit}>"

    @property
    def sleepers(self) -> Sequence[Session]:
        """All, oldest first."""
        return self._sleepers if self._middle is None else [*self._sleepers, self._middle]

    @property
    def of_cells(self) -> Sequence[Session]:
        """Those that are in no cell's middle, oldest first."""
        return self._sleepers

    def add(self, sleeper: Session) -> list[Session]:
        """Keep a new snapshot; return those that are to be dropped for it."""
        if sleeper.running:
            return self._add_middle(sleeper)
        # One of the same moment is as good as this one, and older ones of that moment are not needed twice.
        same = [other for other in self._sleepers if other.serial == sleeper.serial]
        for other in same:
            self._sleepers.remove(other)
        self._sleepers.append(sleeper)
        newest_first = [other for other in reversed(self._sleepers) if other.serial != self._pinned]
        ages = [sleeper.count - other.count for other in newest_first]
        dropped = [newest_first[place] for place in thin(ages, self._limit)]
        for other in dropped:
            self._sleepers.remove(other)
        return [*same, *dropped]

    def _add_middle(self, sleeper: Session) -> list[Session]:
        older, self._middle = self._middle, sleeper
        if sleeper.ordinal != self._ordinal:
            self._ordinal, self._resumes = sleeper.ordinal, 0
        return [older] if older is not None else []

    def pin(self, serial: int | None) -> None:
        """Keep the snapshot after request `serial`, whatever its age, until another is to be kept; None: none is."""
        self._pinned = serial

    def after(self, serial: int) -> Session | None:
        """Return the snapshot after request `serial`."""
        return next((sleeper for sleeper in self._sleepers if sleeper.serial == serial), None)

    def end_cell(self) -> list[Session]:
        """The running cell has ended, or fails: return what is to be dropped for it."""
        middle, self._middle = self._middle, None
        self._resumes = self._ordinal = 0
        return [middle] if middle is not None else []

    def take_middle(self) -> Session | None:
        """Take out the snapshot in the middle of the running cell, unless it was gone back to too often."""
        if self._middle is None or self._resumes >= RESUMES:
            return None
        middle, self._middle = self._middle, None
        self._resumes += 1
        return middle

    def discard(self, sleeper: Session) -> None:
        """Forget one that has ended."""
        if sleeper in self._sleepers:
            self._sleepers.remove(sleeper)
        if sleeper is self._middle:
            self._middle = None

    def put_back(self, sleeper: Session) -> None:
        """Keep one again that was to be dropped."""
        at = sum(other.serial <= sleeper.serial for other in self._sleepers)
        self._sleepers.insert(at, sleeper)

    def take(self, sleeper: Session) -> list[Session]:
        """Take one out to be woken; return the newer ones, whose future it leaves."""
        at = self._sleepers.index(sleeper)
        newer = self._sleepers[at + 1 :]
        del self._sleepers[at:]
        return newer

    def newest(self) -> Session | None:
        """Return the newest one that is in no cell's middle."""
        return self._sleepers[-1] if self._sleepers else None

    def before(self, serials: Sequence[int]) -> Session | None:
        """Return the newest one from before the oldest of `serials`."""
        oldest = min(serials, default=0)
        return next((sleeper for sleeper in reversed(self._sleepers) if sleeper.serial < oldest), None)
