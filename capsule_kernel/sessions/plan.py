"""What the pool should do next, decided from counts alone."""

from __future__ import annotations

import msgspec

START_ATTEMPTS = 3
"""Workers that may end during their start in a row before the pool gives up."""


class Census(msgspec.Struct, frozen=True, kw_only=True):
    """The pool as the plan sees it."""

    has_current: bool
    """A worker is in use, or on its way to be."""
    spares_ready: int
    spares_starting: int
    spares_wanted: int
    """How many the settings ask for; 0 as long as nothing has run, so that the first cell has the machine."""
    failed_starts: int
    """Workers that ended during their start since one last succeeded."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now, in the order of the fields."""

    promote: bool
    """Take a ready spare into use."""
    fork_current: bool
    """Fork a worker to be used."""
    fork_spares: int
    """Fork this many spares."""
    give_up: bool
    """Stop trying: say so to whoever waits for a worker."""


def plan(census: Census) -> Plan:
    """Return what leads from `census` to a worker in use and the spares that are wanted."""
    if not census.has_current and census.failed_starts >= START_ATTEMPTS and not census.spares_ready:
        return Plan(promote=False, fork_current=False, fork_spares=0, give_up=True)
    promote = not census.has_current and census.spares_ready > 0
    fork_current = not census.has_current and not promote
    spares = census.spares_ready + census.spares_starting - promote
    missing = max(0, census.spares_wanted - spares)
    may_fork_spares = census.failed_starts < START_ATTEMPTS and not fork_current
    return Plan(
        promote=promote,
        fork_current=fork_current,
        fork_spares=missing if may_fork_spares else 0,
        give_up=False,
    )
