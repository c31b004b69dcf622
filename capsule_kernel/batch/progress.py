"""A run's events for machines: one JSON object a line, with the time at which it happened.

`event` names it (`run-started`, `run-resumed`, `run-waits`, `cell-started`, `output`, `cell-finished`,
`run-finished`); the other fields are those of `batch.events`, an output in the notebook format.
"""

import json
from collections.abc import Callable
from typing import TextIO

import msgspec

from capsule_kernel.batch.events import (
    CellFinished,
    CellOutput,
    CellStarted,
    RunEvent,
    RunFinished,
    RunResumed,
    RunStarted,
    RunWaits,
)
from capsule_kernel.terminal import silence

_NAMES = {
    RunStarted: "run-started",
    RunResumed: "run-resumed",
    RunWaits: "run-waits",
    CellStarted: "cell-started",
    CellOutput: "output",
    CellFinished: "cell-finished",
    RunFinished: "run-finished",
}


class JSONProgress:
    """An observer that writes lines of JSON.

    Attributes:
        trouble: why they could not be written; empty: they were, or nobody reads them any more.
    """

    def __init__(self, out: TextIO, now: Callable[[], str]) -> None:
        self._out = out
        self._now = now
        self.trouble = ""

    def __call__(self, event: RunEvent) -> None:
        """Write one event."""
        record = {"event": _NAMES[type(event)], "time": self._now(), **msgspec.structs.asdict(event)}
        try:
            self._out.write(json.dumps(record) + "\n")
            self._out.flush()
        except OSError as exc:
            # The reader went away, or the disk is full: the run goes on, and its notebook is written.
            if not isinstance(exc, BrokenPipeError):
                self.trouble = exc.strerror or str(exc)
            silence(self._out)

    def open(self) -> None:
        """Nothing has to be prepared."""

    def close(self) -> None:
        """Nothing has to be ended."""
