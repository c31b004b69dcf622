"""The execution queue: one cell at a time, each with everything that a front end hears of it, in order.

busy, execute_input, outputs, reply, idle (Jupyter messaging, "Execute"). It owns what is queued and what runs, and
decides what a death, an error or an interrupt means for them. It does not know how workers are made.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from capsule_kernel.clock import Clock
from capsule_kernel.front.bridge import ResonateProtocolBridge
from capsule_kernel.front.checkpoints import Checkpoints
from capsule_kernel.front.history import History
from capsule_kernel.front.inputs import InputCapability
from capsule_kernel.front.iopub import IOPub
from capsule_kernel.front.past import Past, moment_of, what_is_live, where_to
from capsule_kernel.front.replies import Replies
from capsule_kernel.front.requests import Request, Requests
from capsule_kernel.sessions.lifecycle import Phase
from capsule_kernel.sessions.session import Death, Session
from capsule_kernel.settings import Settings
from capsule_kernel.wire.jupyter import encode_json
from capsule_kernel.wire.worker_messages import (
    Ask,
    AttemptEvent,
    Done,
    Execute,
    InterruptSeen,
    Publish,
    Stream,
    Tick,
    Unasked,
)

_log = logging.getLogger(__name__)
_MOVES_MAX = 2
_EXECUTION_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


class ExecuteContent(msgspec.Struct, frozen=True, kw_only=True):
    """Content of an `execute_request`."""

    code: str
    silent: bool = False
    store_history: bool | None = None
    user_expressions: dict[str, Any] | None = None
    allow_stdin: bool = True
    stop_on_error: bool = True


class _Metadata(msgspec.Struct, frozen=True):
    cellId: str | None = None  # noqa: N815 - the field's name on the wire
    capsule_execution_id: str | None = None


class _ErrorName(msgspec.Struct, frozen=True):
    ename: str = ""


class _Cell(msgspec.Struct, frozen=True, kw_only=True):
    request: Request
    content: ExecuteContent


class Branches(Protocol):
    """Who can go back to snapshots: `Pool`, whose methods these are."""

    def sleepers(self) -> Sequence[Session]:
        """The snapshots that it can go back to, oldest first."""

    def undo(self, serials: Sequence[int]) -> Session | None:
        """Go back to the newest snapshot from before these requests."""

    def pin(self, serial: int | None) -> None:
        """Keep the snapshot after a request."""

    def discard(self, serial: int) -> Session | None:
        """Go back to the snapshot after a request."""


class _Running(msgspec.Struct, kw_only=True):
    """The cell under way."""

    cell: _Cell
    session: Session | None
    """None: its worker was gone before it read the cell, and the next one is on its way."""
    count: int
    started: str
    tick: asyncio.TimerHandle | None = None
    interrupted_at: float | None = None
    is_interrupt_seen: bool = False
    resumes: int = 0
    """How often it went on from a `checkpoint()`."""
    moves: int = 0
    """How often a worker was gone before it read it."""


class Executions:
    """The queue and the running cell of a kernel."""

    def __init__(
        self,
        *,
        iopub: IOPub,
        inputs: InputCapability,
        bridge: ResonateProtocolBridge,
        replies: Replies,
        requests: Requests,
        history: History,
        settings: Settings,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        on_first_done: Callable[[], None],
        on_dequeued: Callable[[], None],
        on_exit: Callable[[], None],
        on_replace: Callable[[str], None],
        on_retire: Callable[[str], None],
        branches: Branches,
        checkpoints: Checkpoints,
        engine: str,
    ) -> None:
        self._iopub = iopub
        self._inputs = inputs
        self._bridge = bridge
        self._replies = replies
        self._requests = requests
        self._history = history
        self._settings = settings
        self._clock = clock
        self._loop = loop
        self._on_first_done = on_first_done
        self._on_dequeued = on_dequeued
        self._on_exit = on_exit
        self._on_replace = on_replace
        self._on_retire = on_retire
        self._branches = branches
        self._past = Past()
        # What happened between cells: the next one's first output.
        self._news = ""
        # What cells had done and is lost, in words: a run must not go on as if it were there.
        self._lost = ""
        self._checkpoints = checkpoints
        self._is_notice_due = True
        self._engine = engine
        self._queue: deque[_Cell] = deque()
        self._running: _Running | None = None
        self._session: Session | None = None
        self._count = 1
        self._newest_serial = 0
        self._is_paused = False
        self._releases: dict[str, asyncio.TimerHandle] = {}
        self._holds: set[object] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a cell runs."""
        return self._running is not None

    @property
    def running(self) -> Request | None:
        """The request whose cell runs."""
        return self._running.cell.request if self._running is not None else None

    @property
    def first_queued(self) -> int | None:
        """Serial of the next cell, None when none waits."""
        return self._queue[0].request.serial if self._queue else None

    def submit(self, request: Request) -> None:
        """Queue an `execute_request`; one that cannot be understood is answered with an error at once."""
        try:
            content = read_execute(request)
        except ValueError as exc:
            with self._iopub.handling(request.parent):
                self._replies.error(request, "execute_reply", "InvalidRequest", str(exc))
            return
        self._queue.append(_Cell(request=request, content=content))
        self._next()

    def interrupt(self, *, by_signal: bool = False) -> None:
        """Interrupt the running cell. A second time, after a first one that nothing answered, replace the worker.

        `by_signal`: because the front got a SIGINT, which the worker may have got as well.
        """
        running = self._running
        if running is None:
            return
        if running.session is None:
            self._end_with_error(running, _error_content("KeyboardInterrupt", "", []))
            self.abort_queued()
            return
        now = self._clock.monotonic()
        grace_s = self._settings.interrupt_grace_ms / 1000
        if (
            running.interrupted_at is not None
            and not running.is_interrupt_seen
            and now - running.interrupted_at >= grace_s
        ):
            self._on_replace(
                f"it did not answer an interrupt within {grace_s:g} s (a C loop that holds the interpreter?), and was "
                "interrupted again, so it was ended"
            )
            return
        if running.interrupted_at is None or running.is_interrupt_seen:
            running.interrupted_at = now
            running.is_interrupt_seen = False
        if by_signal:
            running.session.pass_on_sigint()
        else:
            running.session.interrupt(running.cell.request.serial)

    def hold_back(self, at_most_s: float) -> Callable[[], None]:
        """Start no cell until the returned function is called, or that time is over.

        So what was asked before a cell is answered before it where the answer takes a moment, as on ipykernel. A cell
        that runs goes on.
        """
        hold = object()
        self._holds.add(hold)

        def let_go() -> None:
            timer.cancel()
            self._holds.discard(hold)
            self._next()

        timer = self._loop.call_later(at_most_s, let_go)
        return let_go

    def abort_queued(self) -> None:
        """Answer every queued execute_request with `aborted`."""
        queued, self._queue = self._queue, deque()
        content, metadata = encode_json({"status": "aborted"}), self._metadata("aborted")
        for cell in queued:
            with self._iopub.handling(cell.request.parent):
                self._replies.send(cell.request, "execute_reply", content, metadata=metadata)
        self._on_dequeued()

    def fail_queued(self, reason: str) -> None:
        """Answer every queued execute_request with an error: there is no worker to run it."""
        queued, self._queue = self._queue, deque()
        error = _error_content("NoWorker", f"no worker can be started: {reason}", [])
        if self._running is not None and self._running.session is None:
            self._end_with_error(self._running, error)
        content, metadata = encode_json({"status": "error", **error}), self._metadata("error")
        for cell in queued:
            with self._iopub.handling(cell.request.parent):
                self._publish_error(error, cell.request.parent)
                self._replies.send(cell.request, "execute_reply", content, metadata=metadata)
        self._on_dequeued()

    # --- what the worker in use says ---------------------------------------------------------------------------------

    def on_ready(self, session: Session) -> None:
        """A worker waits for a cell."""
        self._news += "".join(f"after going back: {note}\n" for note in session.notes)
        session.notes = []
        self._session = session
        running = self._running
        if running is not None and running.session is None:
            running.session = session
            session.execute(self._message_of(running))
            self._tell_news(running.cell)
            running.tick = self._loop.call_later(self._settings.flush_tick_ms / 1000, self._tick, running)
        elif running is not None and running.session is session:
            # It goes on with a cell, and publishes what that writes at intervals.
            self._tick(running)
        self._next()

    def on_stream(self, message: Stream) -> None:
        """Publish text that Python code wrote, at once where it asks for that."""
        if message.text:
            self._hold(message.name, message.text, message.parent, message.age_ms)
        if message.flushed:
            self._iopub.release(message.name)
        self._keep_pace()

    def on_publish(self, message: Publish) -> None:
        """Publish any other output."""
        self._iopub.publish(
            message.msg_type,
            message.content,
            parent=self._requests.parent_of(message.parent),
            metadata=message.metadata,
            buffers=message.buffers,
        )
        self._keep_pace()

    def on_descriptor_text(self, name: str, text: str, *, during: int | None = None) -> None:
        """Publish text that was written to descriptor 1 or 2: it belongs to the newest cell, or to request `during`."""
        serial = self._newest_serial if during is None else during
        self._hold(name, text, serial)
        self._keep_pace()

    def _hold(self, name: str, text: str, serial: int, age_ms: int = 0) -> None:
        self._iopub.hold(name, text, parent=self._requests.parent_of(serial))
        if name not in self._releases:
            wait_ms = max(0, self._settings.stream_hold_ms - age_ms)
            self._releases[name] = self._loop.call_later(wait_ms / 1000, self._release, name)

    def _release(self, name: str) -> None:
        del self._releases[name]
        self._iopub.release(name)
        self._keep_pace()

    def on_ask(self, session: Session, message: Ask) -> None:
        """Put a question of user code to the client that runs the cell, and to whoever else may answer."""
        request = self._requests.get(message.parent)
        is_for_client = request is None or _allows_stdin(request)
        self._inputs.ask(session, message, request, is_for_client=is_for_client)

    def on_unasked(self, session: Session, message: Unasked) -> None:
        """Forget a question."""
        self._inputs.withdraw(session, message.ask)

    def on_interrupt_seen(self, message: InterruptSeen) -> None:
        """Note that the worker is not stuck in C."""
        if self._running is not None and self._running.cell.request.serial == message.serial:
            self._running.is_interrupt_seen = True

    def on_done(self, session: Session, message: Done) -> None:
        """End the running cell: what it and its children wrote, its reply, its idle; then the next."""
        running = self._running
        if running is None or running.cell.request.serial != message.serial:
            _log.warning("%r reported the end of request %d, which does not run", session, message.serial)
            return
        # What was written to the descriptors before the end of the cell is in the pipes by now.
        session.drain_descriptors()
        cell = running.cell
        self._count = message.next_count
        self._running = None
        is_stopped = message.status == "error" and cell.content.stop_on_error
        # The worker runs the next cell while this one's end is published.
        following = None if is_stopped or _changes_worker(message) else self._dispatch()
        if message.attempt is not None and message.attempt.event is AttemptEvent.DISCARDED:
            self._say_undone(running, self._branches.discard(message.attempt.serial), "%attempt")
        elif message.undo:
            self._undo(running, message.undo)
        else:
            if message.attempt is not None:
                is_open = message.attempt.event is AttemptEvent.BEGUN
                self._branches.pin(message.attempt.serial if is_open else None)
            if _CHANGES_NOTHING not in cell.request.message.raw_metadata:
                self._past.note(message.serial, running.count if self._stores(cell.content) else 0)
        self._end(running, message.content, message.status, message.report)
        if self._stores(cell.content) and cell.content.code.strip():
            self._history.store(running.count, message.transformed or cell.content.code, cell.content.code)
            if message.output is not None:
                self._history.note_output(running.count, message.output, is_logged=message.logs_output)
        if is_stopped:
            self.abort_queued()
        if message.exiting and not message.keep_kernel:
            self._on_exit()
            return
        if message.replace_worker:
            self._session = None
            self._on_retire("%reset --worker asked for a fresh one")
        self._on_first_done()
        if following is not None:
            self._announce(following)
        else:
            self._next()

    def _undo(self, running: _Running, cells: int) -> None:
        """Have the snapshot from right before the last `cells` cells take over, and say to the user what happens.

        One from further back would take cells away that nobody has named.
        """
        sleepers = self._branches.sleepers()
        undone = self._past.newest(cells)
        is_there = any(self._past.cells_since(sleeper.serial) == len(undone) for sleeper in sleepers)
        target = self._branches.undo(undone) if undone and is_there else None
        self._say_undone(running, target, "%undo", instead=where_to(sleepers, self._past, len(undone)))

    def _say_undone(self, running: _Running, target: Session | None, magic: str, *, instead: str = "") -> None:
        if target is None:
            text = f"{magic}: there is no snapshot from right before that: nothing was changed{instead}\n"
            self._iopub.stream("stderr", text, parent=running.cell.request.parent)
            return
        self._session = None
        text = f"back to the state {moment_of(target.count)}\n"
        self._iopub.stream("stdout", text, parent=running.cell.request.parent)

    def go_back(self, session: Session, death: Death, heir: Session | None) -> str:
        """`session`, the worker in use, is gone: note that, and return what the next cell finds.

        `heir` is the snapshot that takes over, None when a worker without state does.
        """
        has_cell = self._running is not None and self._running.session is session and not death.left_cell
        since = self._past.go_back(heir)
        live = what_is_live(heir, since, has_cell=has_cell)
        if since and not has_cell and self._session is session:
            # Not on purpose, as with %undo.
            self._lost = live
        return live

    def on_death(self, session: Session, death: Death, heir: Session | None, live: str, *, is_told: bool) -> None:
        """The worker in use is gone: say what happened, where a cell ran as that cell's error, else with the next one.

        `live` is what `go_back` returned; `is_told`: a comm message was under way, and it was said there.
        """
        self._inputs.leave_open(session)
        was_served = self._session is session
        if was_served:
            self._session = None
        running = self._running
        if running is not None and running.session is session and heir is not None and heir.running:
            self._resume_cell(running, death, heir)
            return
        is_between = running is None or running.session is not session
        if is_between or death.left_cell:
            told = f"the worker has died between cells: {death.cause}. {live}"
            if self._lost:
                self._lost = told
            # Where nothing had run, another worker is as good.
            if was_served and not is_told and (heir is not None or self._lost):
                self._news += f"{told}\n"
        if is_between:
            self._next()
            return
        assert running is not None
        if death.left_cell and self._may_move(running):
            running.session = None
            running.moves += 1
            running.interrupted_at = None
            return
        if death.left_cell:
            # It is said here.
            self._lost = self._news = ""
        self._count = running.count + (1 if self._stores(running.cell.content) else 0)
        evalue = f"the worker that ran this cell has died: {death.cause}. {live}"
        if running.resumes:
            evalue += f" It had gone on from a checkpoint() {running.resumes} times."
        if heir is None:
            evalue += self._checkpoints.after_death()
        traceback = [f"\x1b[0;31mWorkerDied\x1b[0m: {evalue}"]
        if death.fault_trace:
            traceback.append(death.fault_trace.rstrip("\n"))
        self._end_with_error(running, _error_content("WorkerDied", evalue, traceback))
        code = running.cell.content.code
        if self._stores(running.cell.content) and code.strip():
            # The worker never told what IPython's transforms made of it.
            self._history.store(running.count, code, code)
        self.abort_queued()

    def _may_move(self, running: _Running) -> bool:
        """Whether another worker may run a cell that none has read; a run does not go on without what is lost."""
        return running.moves < _MOVES_MAX and not (self._lost and _is_of_run(running.cell.request))

    def _resume_cell(self, running: _Running, death: Death, heir: Session) -> None:
        """The running cell goes on from its `checkpoint()`: mark that in its output."""
        running.session = heir
        running.resumes += 1
        running.interrupted_at = None
        age_s = self._loop.time() - heir.born_s
        trace = f"{death.fault_trace.rstrip()}\n" if death.fault_trace else ""
        mark = f"resumed from checkpoint() at line {heir.line}, {age_s:.1f} s old: the worker died: {death.cause}"
        self._iopub.release()
        self._iopub.stream("stderr", f"{trace}[{mark}]\n", parent=running.cell.request.parent)

    # --- what is decided ---------------------------------------------------------------------------------------------

    def _next(self) -> None:
        running = self._dispatch()
        if running is not None:
            self._announce(running)

    def _dispatch(self) -> _Running | None:
        """Have the worker begin with the next cell, if it can; return it, for `_announce` to say so."""
        while self._lost and self._running is None and self._queue and _is_of_run(self._queue[0].request):
            self._refuse_to_go_on(self._queue.popleft())
        session = self._session
        if self._running is not None or not self._queue or session is None or session.phase is not Phase.IDLE:
            return None
        if self._holds:
            return None
        cell = self._queue.popleft()
        running = _Running(cell=cell, session=session, count=self._count, started=self._clock.iso_now())
        self._running = running
        self._newest_serial = cell.request.serial
        session.execute(self._message_of(running))
        return running

    def _message_of(self, running: _Running) -> Execute:
        request, content = running.cell.request, running.cell.content
        return Execute(
            serial=request.serial,
            code=content.code,
            silent=content.silent,
            store_history=self._stores(content),
            allow_stdin=content.allow_stdin,
            execution_count=running.count,
            user_expressions=content.user_expressions or {},
            parent=b'{"header":%b,"metadata":%b}' % (request.message.raw_header, request.message.raw_metadata),
            cell_id=_cell_id(request.message.raw_metadata),
        )

    def _refuse_to_go_on(self, cell: _Cell) -> None:
        """Answer a request of a durable run as if the worker had died in it: the run goes on from what it has saved."""
        error = _error_content("WorkerDied", self._lost, [])
        self._lost = self._news = ""
        with self._iopub.handling(cell.request.parent):
            self._publish_error(error, cell.request.parent)
            self._replies.send(
                cell.request,
                "execute_reply",
                encode_json({"status": "error", **error}),
                metadata=self._metadata("error"),
            )
        self._on_dequeued()

    def _announce(self, running: _Running) -> None:
        """Say that a cell runs, to its promise and on iopub, before anything that its worker says of it is read."""
        request, content = running.cell.request, running.cell.content
        self._bridge.begin(
            request.serial,
            content.code,
            running.count,
            is_recorded=self._stores(content),
            execution_id=_execution_id(request.message.raw_metadata),
        )
        self._iopub.busy_parent = request.parent
        self._iopub.status("busy", parent=request.parent)
        if not content.silent:
            self._iopub.publish(
                "execute_input",
                encode_json({"code": content.code, "execution_count": running.count}),
                parent=request.parent,
            )
        if not content.silent:
            self._news += self._bridge.news()
        self._tell_news(running.cell)
        if self._is_notice_due and content.allow_stdin and self._stores(content):
            self._is_notice_due = False
            notice = self._checkpoints.notice()
            if notice is not None:
                self._iopub.publish("display_data", encode_json(notice), parent=request.parent)
        if content.allow_stdin and (trouble := self._checkpoints.trouble()):
            self._iopub.stream("stderr", trouble, parent=request.parent)
        running.tick = self._loop.call_later(self._settings.flush_tick_ms / 1000, self._tick, running)
        self._on_dequeued()

    def _tell_news(self, cell: _Cell) -> None:
        if self._news and _is_of_run(cell.request):
            # Nothing is lost: what the cell shows must be as if nothing had happened.
            _log.warning("%s", self._news.rstrip())
            self._news = ""
        if self._news and not cell.content.silent:
            self._iopub.stream("stderr", self._news, parent=cell.request.parent)
            self._news = ""

    def _tick(self, running: _Running) -> None:
        if running.session is not None:
            running.session.say(Tick(serial=running.cell.request.serial))

    def _end_with_error(self, running: _Running, error: dict[str, Any]) -> None:
        """End a cell of which its worker can say nothing any more."""
        self._publish_error(error, running.cell.request.parent)
        reply = {"status": "error", **error, "execution_count": running.count, "user_expressions": {}, "payload": []}
        self._end(running, encode_json(reply), "error")

    def _end(self, running: _Running, content: bytes, status: str, report: bytes = b"") -> None:
        if running.tick is not None:
            running.tick.cancel()
        request = running.cell.request
        if self._running is running:
            self._running = None
        self._iopub.release()
        self._iopub.busy_parent = None
        self._replies.send(request, "execute_reply", content, metadata=self._metadata(status, running.started, report))
        self._iopub.status("idle", parent=request.parent)
        self._bridge.end(request.serial, status, error_name(status, content))

    def _metadata(self, status: str, started: str | None = None, report: bytes = b"") -> bytes:
        started = started or self._clock.iso_now()
        metadata = f'{{"started":"{started}","dependencies_met":true,"engine":"{self._engine}","status":"{status}"'
        return metadata.encode() + (b',"capsule":' + report if report else b"") + b"}"

    def _publish_error(self, content: dict[str, Any], parent: bytes) -> None:
        self._iopub.publish("error", encode_json(content), parent=parent)

    def _stores(self, content: ExecuteContent) -> bool:
        if content.silent:
            return False
        return True if content.store_history is None else content.store_history

    def _keep_pace(self) -> None:
        wait_s = self._iopub.wait_s()
        session = self._running.session if self._running is not None else self._session
        if wait_s <= 0 or self._is_paused or session is None:
            return
        self._is_paused = True
        session.pause()
        self._loop.call_later(wait_s, self._resume, session)

    def _resume(self, session: Session) -> None:
        wait_s = self._iopub.backlog_wait_s()
        if wait_s > 0:
            self._loop.call_later(wait_s, self._resume, session)
            return
        self._is_paused = False
        session.resume()


def read_execute(request: Request) -> ExecuteContent:
    """Return the content of an `execute_request`.

    Raises:
        ValueError: it is none, or holds what the worker's link has no form for.
    """
    try:
        content = msgspec.json.decode(request.message.raw_content, type=ExecuteContent)
        if content.user_expressions:
            msgspec.msgpack.encode(content.user_expressions)
    except (msgspec.MsgspecError, UnicodeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"content of execute_request: {exc}") from exc
    return content


def _changes_worker(message: Done) -> bool:
    """Return whether a cell asked for more than the next one: another worker, another state, or the kernel's end."""
    return bool(message.exiting or message.replace_worker or message.undo or message.attempt is not None)


def _error_content(ename: str, evalue: str, traceback: list[str]) -> dict[str, Any]:
    return {"ename": ename, "evalue": evalue, "traceback": traceback or [f"{ename}: {evalue}"]}


def _allows_stdin(request: Request) -> bool:
    """Return whether the client that sent a request can be asked."""
    if request.message.header.msg_type != "execute_request":
        return True
    return msgspec.json.decode(request.message.raw_content, type=ExecuteContent).allow_stdin


def error_name(status: str, content: bytes) -> str:
    """Return the name of the error in a reply."""
    return msgspec.json.decode(content, type=_ErrorName).ename if status == "error" else ""


def _cell_id(raw_metadata: bytes) -> str | None:
    if b"cellId" not in raw_metadata:
        return None
    try:
        return msgspec.json.decode(raw_metadata, type=_Metadata).cellId
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


_CHANGES_NOTHING = b'"capsule_changes_nothing"'
"""In the metadata of a request of a run whose effects nobody misses."""


def _is_of_run(request: Request) -> bool:
    """Return whether a request is a durable run's: one of its cells, or what it asks for between them."""
    metadata = request.message.raw_metadata
    return b'"capsule_execution_id"' in metadata or b'"capsule_run"' in metadata


def _execution_id(raw_metadata: bytes) -> str:
    """Return the id that a durable run gives the execution; empty in all other requests."""
    if b"capsule_execution_id" not in raw_metadata:
        return ""
    try:
        found = msgspec.json.decode(raw_metadata, type=_Metadata).capsule_execution_id or ""
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return found if _EXECUTION_ID.fullmatch(found) else ""
