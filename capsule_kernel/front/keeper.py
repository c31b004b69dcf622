"""Keeps the store of checkpoints for a kernel: takes captures in, finds what is to be restored, tells of what is there.

Imported when it is first needed, and run in threads: the loop never waits for the disk. It unpickles nothing.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from pathlib import Path
from typing import assert_never

from capsule_kernel.clock import Clock
from capsule_kernel.errors import CheckpointTooLarge, ChunksMissing, ProtocolError, StateError, StoreUnavailable
from capsule_kernel.state import sweep
from capsule_kernel.state.exchange import (
    Base,
    Delete,
    Dialogue,
    End,
    Find,
    Found,
    List,
    Listing,
    Named,
    Part,
    Proven,
    Refused,
    Save,
    Sent,
    ToKeeper,
    Unproven,
    Verdict,
    Want,
    early_end,
    items,
)
from capsule_kernel.state.listing import line_of
from capsule_kernel.state.manifest import About, Known
from capsule_kernel.state.store import Store
from capsule_kernel.state.writer import CheckpointWriter

_log = logging.getLogger(__name__)
_PATIENCE_S = 300.0
_TRIES = 3
_BEFORE_A_WORD_S = 5.0
_SWEEP_EVERY_S = 60.0


class Keeper:
    """The keeper.

    Args:
        folder: where the store is; it is made with the first checkpoint.
        cap_bytes: what it may take on the disk.
        session: the session that this kernel is for; a notebook may tell a better name later.
    """

    def __init__(self, *, folder: str, cap_bytes: int, session: str, clock: Clock) -> None:
        self._folder = folder
        self._cap_bytes = cap_bytes
        self.session = session
        self._clock = clock
        self._store: Store | None = None
        self._opening = threading.Lock()
        self.writing = threading.Lock()
        """Held while a checkpoint is written."""
        self._sweep_at_s = 0.0
        self._newest_ticket = 0
        self.trouble = ""
        """Why the newest checkpoint that nobody asked for could not be taken; empty: it was."""
        self.durable_cell = 0
        """The newest cell of this kernel whose effects are in the store."""

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            with contextlib.suppress(StateError):
                self._store.close()

    def converse(self, sock: socket.socket) -> None:
        """Hold a dialogue on a socket, which is closed afterwards; called in a thread."""
        try:
            with Dialogue(sock, patience_s=_PATIENCE_S) as dialogue:
                self._answer(dialogue)
        except (OSError, ProtocolError) as exc:
            # The worker's side has ended, or is not ours any more.
            _log.info("a dialogue about checkpoints ended early: %s", exc)

    def _answer(self, dialogue: Dialogue) -> None:
        request = dialogue.hear_request()
        began_s = self._clock.monotonic()
        try:
            self._carry_out(dialogue, request)
        except (OSError, ProtocolError):
            if isinstance(request, Save) and not request.is_attended:
                # Its deadline began before it said a word.
                self.trouble = early_end(self._clock.monotonic() - began_s + _BEFORE_A_WORD_S)
            raise
        except StateError as exc:
            if isinstance(request, Save) and not request.is_attended:
                self.trouble = str(exc)
            _log.warning("%s: %s", type(request).__name__, exc)
            with contextlib.suppress(OSError):
                dialogue.say(Refused(reason=str(exc)))

    def _carry_out(self, dialogue: Dialogue, request: ToKeeper) -> None:
        match request:
            case Save():
                self._save(dialogue, request)
            case Find(session=session, wanted=wanted):
                self._send(dialogue, session or self.session, wanted)
            case List(session=session):
                dialogue.say(self._listing(session or self.session))
            case Delete(session=session, wanted=wanted):
                with self.writing:
                    self._opened().delete([self._number(session or self.session, wanted)])
                dialogue.say(self._listing(session or self.session))
            case Proven(checkpoint=number, captured=captured):
                with self.writing:
                    self._opened().amend(number, captured)
                _log.debug("checkpoint %d is proven", number)
                dialogue.say(Found(checkpoint=number, manifest=self._opened().manifest(number)))
            case Unproven(checkpoint=number, reason=reason):
                _log.warning("the proof of checkpoint %d came to no end: %s", number, reason)
            case Named(session=session):
                self.session = session
            case Want() | Sent() | End():
                raise ProtocolError(f"{type(request).__name__} opens no dialogue")
            case _:
                assert_never(request)

    def _save(self, dialogue: Dialogue, request: Save) -> None:
        session = request.session or self.session
        with self.writing:
            if not request.is_attended and request.ticket < self._newest_ticket:
                # A child that was slow to begin: what it has is older than what is there.
                dialogue.say(Refused(reason="a newer checkpoint was taken meanwhile"))
                return
            store = self._opened()
            known = store.known(session)
            for attempt in range(_TRIES):
                try:
                    number = self._take(dialogue, store, request, session, known)
                    break
                except ChunksMissing:
                    known = Known(chunks={}, records=set(), generation=store.generation())
                    if attempt == _TRIES - 1:
                        raise
                except CheckpointTooLarge as exc:
                    if attempt == _TRIES - 1 or not sweep.make_room(store, exc.size_bytes):
                        raise
                    known = store.known(session)
            self.durable_cell = max(self.durable_cell, request.after_cell)
            dialogue.say(Verdict(checkpoint=number, manifest=store.manifest(number)))
            _log.debug("checkpoint %d after cell %d is durable", number, request.after_cell)
            self.trouble = ""
            self._newest_ticket = max(self._newest_ticket, request.ticket)
            if self._clock.monotonic() >= self._sweep_at_s:
                self._sweep_at_s = self._clock.monotonic() + _SWEEP_EVERY_S
                self._sweep(store)

    def _sweep(self, store: Store) -> None:
        try:
            sweep.collect(store, self._clock.unix_ms())
        except (StateError, OSError) as exc:
            # The checkpoint stands; there is just more on the disk than needs to be.
            _log.warning("old checkpoints were not given up: %s", exc)

    def _take(self, dialogue: Dialogue, store: Store, request: Save, session: str, known: Known) -> int:
        dialogue.say(Base(known=known))
        writer = CheckpointWriter(store, session, known)
        failure: StateError | None = None
        try:
            for item in items(dialogue):
                if failure is None:
                    try:
                        writer.add(item)
                    except StateError as exc:
                        # The rest is taken all the same: whoever sends it listens afterwards.
                        failure = exc
                        writer.discard()
        except BaseException:
            writer.discard()
            raise
        if failure is not None:
            raise failure
        return writer.commit(
            About(
                session=session,
                created_ms=self._clock.unix_ms(),
                after_cell=request.after_cell,
                label=request.label,
                not_rolled_back=request.not_rolled_back,
            )
        )

    def _send(self, dialogue: Dialogue, session: str, wanted: str) -> None:
        store = self._opened()
        number = self._number(session, wanted)
        dialogue.say(Found(checkpoint=number, manifest=store.manifest(number)))
        while True:
            try:
                request = dialogue.hear_request()
            except ConnectionError:
                return
            if not isinstance(request, Want):
                raise ProtocolError(f"{type(request).__name__} came while a checkpoint is restored")
            try:
                dialogue.say(Part(data=store.record(request.name)))
            except StateError as exc:
                # The rest of the checkpoint may be whole.
                dialogue.say(Refused(reason=str(exc)))

    def _number(self, session: str, wanted: str) -> int:
        store = self._opened()
        listed = store.checkpoints(session)
        if not wanted:
            if not listed:
                raise StoreUnavailable(self._folder, f"there is no checkpoint of {session}")
            return int(listed[-1].id)
        labelled = [item.id for item in listed if item.label == wanted]
        if labelled:
            return int(labelled[-1])
        # A number may mean another session's: that is how state moves from one notebook to another.
        if wanted.isascii() and wanted.isdigit() and any(item.id == int(wanted) for item in store.checkpoints()):
            return int(wanted)
        raise StoreUnavailable(self._folder, f"there is no checkpoint {wanted!r} of {session}")

    def _listing(self, session: str) -> Listing:
        store = self._opened()
        return Listing(
            session=session,
            now_ms=self._clock.unix_ms(),
            folder=self._folder,
            size_bytes=store.size_bytes(),
            cap_bytes=self._cap_bytes,
            lines=[line_of(store, item) for item in store.checkpoints(session)],
        )

    def _opened(self) -> Store:
        with self._opening:
            if self._store is None:
                self._store = Store(Path(self._folder), cap_bytes=self._cap_bytes)
                for repair in self._store.repairs:
                    _log.warning("the store of checkpoints was repaired: %s", repair)
            return self._store
