"""`%%attempt`: a cell that is run on a branch, which is then kept or discarded.

The branch is a snapshot of the moment before the cell, which stays until it is decided. Discarding it is going back
to that moment, as with `%undo`. The worker takes the snapshot; here is what is open, and what was decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class

from capsule_kernel.wire.worker_messages import Attempt, AttemptEvent

if TYPE_CHECKING:
    from capsule_kernel.worker.shell import ZMQInteractiveShell

_MAGIC = "%%attempt"
_HINT = "attempted: `%attempt keep` keeps what this cell changed, `%attempt discard` goes back to before it\n"


class Attempts:
    """The attempt that is open, if any."""

    def __init__(self) -> None:
        self._serial: int | None = None
        self._refusal = ""
        self._news: AttemptEvent | None = None

    def is_asked(self, code: str) -> bool:
        """Return whether `code` is a cell that wants a branch, and may have one."""
        if _MAGIC not in code or code.split(maxsplit=1)[0] != _MAGIC:
            return False
        if self._serial is not None:
            self._refusal = "an attempt is open: `%attempt keep` or `%attempt discard` decides it"
            return False
        return True

    def begin(self, serial: int, refusal: str) -> None:
        """Note that there is a snapshot after request `serial`, or why there is none."""
        self._refusal = refusal
        if not refusal:
            self._serial, self._news = serial, AttemptEvent.BEGUN

    def body_of(self, code: str) -> str:
        """Return what is to be run: the lines below the magic where that has been begun, else `code`."""
        if self._news is not AttemptEvent.BEGUN:
            return code
        before, _, body = code.partition(_MAGIC)
        # A comment in its place: lines keep their numbers.
        return f"{before}# {_MAGIC}{body}"

    @property
    def hint(self) -> str:
        """What the user is told after a cell that was attempted, else empty."""
        return _HINT if self._news is AttemptEvent.BEGUN else ""

    @property
    def refusal(self) -> str:
        """Why a cell did not get a branch."""
        return self._refusal or f"{_MAGIC} must be the first line of a cell"

    def decide(self, event: AttemptEvent) -> None:
        """Keep or discard what is open.

        Raises:
            UsageError: nothing is.
        """
        if self._serial is None:
            raise UsageError(f"no attempt is open: {_MAGIC} as the first line of a cell begins one")
        self._news = event

    def take_news(self) -> Attempt | None:
        """Return what the front is to know after this cell."""
        if self._news is None or self._serial is None:
            return None
        news = Attempt(event=self._news, serial=self._serial)
        if self._news is not AttemptEvent.BEGUN:
            self._serial = None
        self._news = None
        return news


@magics_class
class AttemptMagics(Magics):
    """`%%attempt`, and `%attempt keep` or `%attempt discard` after it."""

    shell: ZMQInteractiveShell

    @line_cell_magic
    def attempt(self, line: str, cell: str | None = None) -> None:
        """Run a cell on a branch, `%%attempt`; then `%attempt keep` keeps its changes, `%attempt discard` goes back.

        The cell is run as any other. What it does outside of the process (files, children) stays done.
        """
        attempts = self.shell.kernel.attempts
        if cell is not None:
            raise UsageError(f"not run: {attempts.refusal}")
        try:
            event = {"keep": AttemptEvent.KEPT, "discard": AttemptEvent.DISCARDED}[line.strip()]
        except KeyError:
            raise UsageError(f"%attempt takes `keep` or `discard`, got {line.strip()!r}") from None
        attempts.decide(event)
