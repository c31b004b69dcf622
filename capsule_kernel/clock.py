"""Time, as a collaborator: the only module that reads the real clocks."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The machine's clocks."""

    # The second that was last asked for, and its text: a cell's five messages are of one.
    _second = (-1, "")

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread for a while."""
        time.sleep(seconds)

    def unix_ms(self) -> int:
        """Return the time of day in milliseconds since 1970, as promises have it."""
        return time.time_ns() // 1_000_000

    def iso_now(self) -> str:
        """Return the time of day as ISO 8601 with the offset of UTC, as Jupyter's headers have it."""
        second, rest_us = divmod(time.time_ns() // 1000, 1_000_000)
        known, text = self._second
        if second != known:
            text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second, text
        return f"{text}.{rest_us:06d}Z"
