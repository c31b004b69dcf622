"""A kernel's checkpoints as the front has them: who serves the worker's requests, and what a user is told.

The store and all that knows it come in with the first request, or when there is state to tell of.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from capsule_kernel.clock import Clock
from capsule_kernel.errors import StateError

if TYPE_CHECKING:
    from capsule_kernel.front.keeper import Keeper
    from capsule_kernel.state.store import Listed

_log = logging.getLogger(__name__)
_NAMES_TOLD = 3


class Checkpoints:
    """The front's side of checkpoints.

    Args:
        folder: where the store is; it is made with the first checkpoint.
        cap_bytes: what it may take on the disk.
        session: the session that this kernel is for; a notebook may tell a better name later.
    """

    def __init__(self, *, folder: str, cap_bytes: int, session: str, clock: Clock) -> None:
        self._folder = folder
        self._cap_bytes = cap_bytes
        self._session = session
        self._clock = clock
        self._making = threading.Lock()
        self._made: Keeper | None = None
        self._is_closed = False
        self._told_trouble = ""

    def serve(self, sock: socket.socket) -> None:
        """Serve a request of the worker that comes on `sock`, in a thread."""
        if self._is_closed:
            sock.close()
            return
        threading.Thread(target=self._converse, args=(sock,), name="capsule-checkpoints", daemon=True).start()

    def close(self, grace_s: float) -> None:
        """Let go of the store; a checkpoint that is being written is given `grace_s` to become whole."""
        self._is_closed = True
        keeper = self._made
        if keeper is None:
            return
        is_idle = keeper.writing.acquire(timeout=grace_s)
        if is_idle:
            keeper.close()

    def notice(self) -> dict[str, Any] | None:
        """Return the content of a `display_data` that tells of restorable state; None where there is none."""
        if not os.path.exists(os.path.join(self._folder, "index.sqlite3")):
            return None
        try:
            listed = self._listed()
        except StateError as exc:
            _log.warning("the checkpoints cannot be looked at: %s", exc)
            return None
        if not listed:
            return None
        from capsule_kernel.state.listing import ago

        newest = listed[-1]
        named = dict.fromkeys(item.label for item in reversed(listed) if item.label)
        age = ago(self._clock.unix_ms() - newest.created_ms)
        text = (
            "The state of an earlier run can be restored: %restore brings back the variables as they were after cell "
            f"[{newest.after_cell}], saved {age}."
        )
        if named:
            text += f" Named checkpoints: {', '.join(list(named)[:_NAMES_TOLD])}."
        text += " %checkpoints lists what there is. Nothing is executed again."
        from html import escape

        html = f'<div style="border-left:3px solid #888;padding-left:.6em">{escape(text)}</div>'
        return {"data": {"text/plain": text, "text/html": html}, "metadata": {}, "transient": {}}

    def session(self) -> str:
        """Return which session this kernel is for, as far as is known."""
        return self._session if self._made is None else self._made.session

    def _listed(self) -> list[Listed]:
        """Return the session's checkpoints, looked at without taking part: a writer holds up no reader."""
        from pathlib import Path

        from capsule_kernel.state.store import Store

        with Store(Path(self._folder), is_writable=False) as store:
            return store.checkpoints(self.session())

    def trouble(self) -> str:
        """Return why checkpoints are not being taken, once for each reason; empty when they are, or it was told."""
        found = "" if self._made is None else self._made.trouble
        if found == self._told_trouble:
            return ""
        self._told_trouble = found
        return found and f"The variables are not being saved by themselves: {found}\n"

    def after_death(self) -> str:
        """Return what a worker's death leaves to be restored, in words; empty: nothing."""
        if self._made is None or not self._made.durable_cell:
            return ""
        return f" %restore brings back the variables as they were after cell [{self._made.durable_cell}]."

    def _converse(self, sock: socket.socket) -> None:
        self._keeper().converse(sock)

    def _keeper(self) -> Keeper:
        with self._making:
            if self._made is None:
                from capsule_kernel.front.keeper import Keeper

                self._made = Keeper(
                    folder=self._folder, cap_bytes=self._cap_bytes, session=self._session, clock=self._clock
                )
            return self._made
