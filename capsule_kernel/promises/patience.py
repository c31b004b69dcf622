"""When to try again, and when to stop trying. Pure: time and chance are arguments."""

from __future__ import annotations

import msgspec

RETRIABLE = frozenset({429, 502, 503, 504})
"""Statuses of HTTP that say "later"."""


class Backoff(msgspec.Struct, frozen=True):
    """Waiting times that double, with jitter, so that many clients do not come back at the same moment.

    Attributes:
        first_s: the longest first wait.
        max_s: the longest wait at all.
    """

    first_s: float = 0.2
    max_s: float = 10.0

    def delay_s(self, attempt: int, chance: float) -> float:
        """Return how long to wait after `attempt` (from 0): between a half and the whole, by a `chance` of 0 to 1."""
        longest_s = min(self.first_s * 2.0 ** min(attempt, 30), self.max_s)
        return longest_s * (0.5 + chance / 2)


class Breaker:
    """Stops asking a server that fails again and again.

    Args:
        failures_max: after how many failures in a row it opens.
        pause_s: how long nothing is sent then; afterwards one request may try.
    """

    def __init__(self, *, failures_max: int = 5, pause_s: float = 15.0) -> None:
        self._failures_max = failures_max
        self._pause_s = pause_s
        self._failures = 0
        self._open_until_s: float | None = None
        self._has_probe = False

    def __repr__(self) -> str:
        state = "closed" if self._open_until_s is None else "half-open" if self._has_probe else "open"
        return f"<Breaker {state}, {self._failures} failures>"

    def closed_in_s(self, now_s: float) -> float:
        """Return how long nothing may be sent; 0 when a request may go now, which then has to be reported."""
        if self._open_until_s is None:
            return 0.0
        if now_s < self._open_until_s:
            return self._open_until_s - now_s
        if self._has_probe:
            return 0.1
        self._has_probe = True
        return 0.0

    def succeeded(self) -> None:
        """Report an answer, whatever it says."""
        self._failures = 0
        self._open_until_s = None
        self._has_probe = False

    def failed(self, now_s: float) -> None:
        """Report that there was no answer, or only "later"."""
        self._failures += 1
        self._has_probe = False
        if self._failures >= self._failures_max:
            self._open_until_s = now_s + self._pause_s

    def gave_up(self) -> None:
        """Report that the request was withdrawn before anything was known."""
        self._has_probe = False
