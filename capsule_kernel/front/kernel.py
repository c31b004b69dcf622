"""The front's root: builds the parts, starts them, answers what needs no worker, and ends everything."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from capsule_kernel import __version__
from capsule_kernel.clock import Clock
from capsule_kernel.folders import checkpoints_folder
from capsule_kernel.front.bridge import ResonateProtocolBridge
from capsule_kernel.front.checkpoints import Checkpoints
from capsule_kernel.front.comms import Comms
from capsule_kernel.front.connection import Connection
from capsule_kernel.front.dispatch import Dispatch
from capsule_kernel.front.execution import Executions
from capsule_kernel.front.history import History, default_file
from capsule_kernel.front.inputs import InputCapability
from capsule_kernel.front.inspection import Inspections
from capsule_kernel.front.iopub import IOPub
from capsule_kernel.front.journal import Journal
from capsule_kernel.front.replies import Replies
from capsule_kernel.front.requests import Request, Requests
from capsule_kernel.front.sockets import Sockets
from capsule_kernel.front.stdin import Stdin
from capsule_kernel.front.usage import Usage
from capsule_kernel.sessions.pool import Pool
from capsule_kernel.sessions.process import SpawnedZygote
from capsule_kernel.sessions.session import Death, Session
from capsule_kernel.settings import Launch
from capsule_kernel.wire.jupyter import PROTOCOL, Wire, encode_json
from capsule_kernel.wire.worker_messages import (
    Answer,
    Ask,
    CommHandled,
    Debuggable,
    Done,
    DoneBeside,
    FromWorker,
    HandleWhileBlocked,
    HistoryAnswer,
    HistoryQuery,
    InterruptSeen,
    Publish,
    Ready,
    SnapshotRefused,
    Stream,
    Taken,
    Unasked,
    WorkerOptions,
    ZygoteOptions,
)

if TYPE_CHECKING:
    from capsule_kernel.front.debugger import Debugger
    from capsule_kernel.front.subshells import Subshells

_log = logging.getLogger(__name__)
_IS_COMPLETE_DEADLINE_S = 2.0
_HISTORY_DEADLINE_S = 1.0
_HISTORY_AHEAD_S = 0.25
_CHECKPOINT_GRACE_S = 0.5


class _CodeContent(msgspec.Struct, frozen=True):
    code: str


class _ShutdownContent(msgspec.Struct, frozen=True):
    restart: bool = False


class _CommInfoContent(msgspec.Struct, frozen=True):
    target_name: str | None = None


class Kernel:
    """One kernel: what a client of Jupyter connects to."""

    def __init__(
        self,
        *,
        launch: Launch,
        connection: Connection,
        connection_file: str,
        wire: Wire,
        clock: Clock,
        zygote_options: ZygoteOptions,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        settings = launch.settings
        self._launch = launch
        self._settings = settings
        self._connection = connection
        self._connection_file = connection_file
        self._wire = wire
        self._clock = clock
        self._loop = loop
        self._stopped: asyncio.Future[int] = loop.create_future()
        self._is_stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._usage = Usage()
        self._debugger: Debugger | None = None
        self._subshells: Subshells | None = None
        self._sockets = Sockets(loop)
        self._requests = Requests()
        self._journal = Journal(cap_bytes=settings.journal_cap_bytes)
        self._iopub = IOPub(
            self._sockets.iopub,
            wire,
            clock=clock,
            journal=self._journal,
            rate=settings.iopub_msg_rate,
            window_ms=settings.iopub_rate_window_ms,
        )
        self._replies = Replies(wire, clock=clock, journal=self._journal)
        self._stdin = Stdin(self._sockets.stdin, wire, clock=clock)
        self._history = History(self._history_file(), loop=loop)
        self._inspections = Inspections(settings, loop=loop)
        self._checkpoints = Checkpoints(
            folder=checkpoints_folder(os.environ, settings.checkpoints_folder),
            cap_bytes=settings.checkpoints_cap_mb * 1_000_000,
            session=_session_name(settings.session),
            clock=clock,
        )
        self._bridge = ResonateProtocolBridge(
            settings=settings,
            environ=os.environ,
            kernel_id=wire.session,
            session=self._checkpoints.session,
            clock=clock,
            loop=loop,
        )
        self._inputs = InputCapability(
            stdin=self._stdin,
            bridge=self._bridge,
            clock=clock,
            timeout_ms=settings.input_timeout_ms,
            session_name=self._checkpoints.session,
            tell=lambda text, parent: self._iopub.stream("stderr", text, parent=parent),
            loop=loop,
        )
        self._pool = Pool(
            owner=self,
            zygote_options=zygote_options,
            worker_options=self._worker_options,
            spares=settings.spare_workers,
            snapshots=settings.snapshots,
            snapshots_cap_bytes=settings.snapshots_cap_mb * 1_000_000,
            start_timeout_ms=settings.worker_start_timeout_ms,
            loop=loop,
        )
        self._comms = Comms(
            iopub=self._iopub,
            clock=clock,
            interrupt_grace_ms=settings.interrupt_grace_ms,
            first_queued=lambda: self._executions.first_queued,
            on_exit=self.stop,
            on_replace=self._pool.replace,
        )
        self._executions = Executions(
            iopub=self._iopub,
            inputs=self._inputs,
            bridge=self._bridge,
            replies=self._replies,
            requests=self._requests,
            history=self._history,
            settings=settings,
            clock=clock,
            loop=loop,
            on_first_done=self._pool.want_spares,
            on_dequeued=self._comms.send,
            on_exit=self.stop,
            on_replace=self._pool.replace,
            on_retire=functools.partial(self._pool.retire, grace_ms=settings.shutdown_grace_ms),
            branches=self._pool,
            checkpoints=self._checkpoints,
            engine=wire.session,
        )
        self._dispatch = Dispatch(
            wire=wire,
            requests=self._requests,
            replies=self._replies,
            iopub=self._iopub,
            execute=self._execute,
            comm=self._comm,
            handlers={
                "kernel_info_request": self._kernel_info,
                "connect_request": self._connect,
                "comm_info_request": self._comm_info,
                "interrupt_request": self._interrupt,
                "shutdown_request": self._shutdown,
                "create_subshell_request": lambda request: self._all_subshells().create(request),
                "delete_subshell_request": lambda request: self._all_subshells().delete(request),
                "list_subshell_request": lambda request: self._all_subshells().ids(request),
                "usage_request": self._answer_usage,
                "capsule_replay_request": self._replay,
            },
            slow_handlers={
                "complete_request": self._inspections.complete,
                "inspect_request": self._inspections.inspect,
                "is_complete_request": self._is_complete,
                "history_request": self._answer_history,
                "debug_request": self._debug,
            },
            knows_subshell=lambda name: self._subshells is not None and self._subshells.knows(name),
            loop=loop,
        )

    def bind(self) -> Connection:
        """Bind the channels; return the connection with the ports that were taken.

        Raises:
            BindError: an address cannot be bound.
        """
        self._connection = self._sockets.bind(self._connection)
        return self._connection

    def start(self, spawned: SpawnedZygote) -> None:
        """Begin to serve."""
        self._iopub.start()
        self._stdin.start()
        self._dispatch.start(self._sockets.control, self._sockets.shell)
        self._pool.start(spawned)
        self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._loop.add_signal_handler(signal.SIGINT, functools.partial(self._on_interrupt, by_signal=True))
        self._watch_parent()

    async def run(self) -> int:
        """Serve until the kernel is to end; end everything; return the exit status."""
        status = await self._stopped
        self._executions.abort_queued()
        if self._subshells is not None:
            self._subshells.abort_queued()
        self._bridge.leave()
        self._inputs.leave_open()
        self._comms.abandon()
        self._on_interrupt()
        # Side by side: a client that restarts the kernel waits for this process to end.
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pool.close(grace_ms=self._settings.shutdown_grace_ms))
            group.create_task(self._close_history())
            group.create_task(self._bridge.stop())
        self._checkpoints.close(_CHECKPOINT_GRACE_S)
        if self._debugger is not None:
            self._debugger.close()
        self._sockets.close()
        return status

    async def _close_history(self) -> None:
        try:
            await asyncio.wait_for(self._history.close(), _HISTORY_DEADLINE_S)
        except TimeoutError:
            _log.warning("the input history was not written within %g s", _HISTORY_DEADLINE_S)

    def stop(self) -> None:
        """Have `run` end; twice is no error."""
        if not self._stopped.done():
            self._stopped.set_result(0)

    # --- what the pool says ------------------------------------------------------------------------------------------

    def on_worker_ready(self, session: Session) -> None:
        """See `PoolOwner`."""
        self._inspections.on_ready(session)
        self._comms.on_ready(session)
        if self._subshells is not None:
            self._subshells.on_ready()
        if self._debugger is None:
            self._executions.on_ready(session)
        else:
            # Cells wait for their breakpoints.
            self._run(self._ready_for_debugging(self._debugger, session))

    def on_worker_message(self, session: Session, message: FromWorker) -> None:
        """See `PoolOwner`."""
        match message:
            case Stream():
                self._executions.on_stream(message)
            case Publish():
                if message.msg_type.startswith("comm_"):
                    self._comms.on_publish(message)
                self._executions.on_publish(message)
            case Done():
                self._executions.on_done(session, message)
            case DoneBeside():
                self._all_subshells().on_done(session, message)
            case Ask():
                self._executions.on_ask(session, message)
            case Unasked():
                self._executions.on_unasked(session, message)
            case SnapshotRefused(reason=reason):
                _log.info("no snapshot: %s", reason)
            case InterruptSeen():
                self._executions.on_interrupt_seen(message)
                self._comms.on_interrupt_seen(message)
            case CommHandled():
                self._comms.on_handled(session, message)
            case HandleWhileBlocked():
                self._comms.on_handle_while_blocked(message)
            case Answer():
                if self._debugger is None or not self._debugger.on_answer(message):
                    self._inspections.on_answer(message)
            case Taken():
                self._inspections.on_taken(message)
            case HistoryQuery(ask=ask, arguments=arguments):
                self._run(self._answer_worker(session, ask, arguments))
            case Ready():
                return
            case _:
                assert_never(message)

    def on_worker_text(self, session: Session, name: str, text: str) -> None:
        """See `PoolOwner`."""
        handled = None if self._executions.is_busy else self._comms.current
        if handled is None and self._subshells is not None and not self._executions.is_busy:
            handled = self._subshells.current
        self._executions.on_descriptor_text(name, text, during=handled)

    def on_worker_death(self, session: Session, death: Death, heir: Session | None) -> None:
        """See `PoolOwner`."""
        _log.info("%r: %s", session, death.cause)
        self._inspections.on_death()
        if self._debugger is not None:
            self._debugger.on_death()
        live = self._executions.go_back(session, death, heir)
        if self._subshells is not None:
            self._subshells.on_death(session, death, live)
        is_told = self._comms.on_death(session, death, self._executions.running, heir, live)
        self._executions.on_death(session, death, heir, live, is_told=is_told)

    def on_errand(self, session: Session, sock: socket.socket) -> None:
        """See `PoolOwner`."""
        self._checkpoints.serve(sock)

    def on_debuggable(self, session: Session, message: Debuggable, sock: socket.socket | None) -> None:
        """See `PoolOwner`."""
        if self._debugger is not None:
            self._debugger.on_debuggable(message, sock)
        elif sock is not None:
            sock.close()

    def on_no_worker(self, reason: str) -> None:
        """See `PoolOwner`."""
        _log.error("no worker can be started: %s", reason)
        self._executions.fail_queued(reason)
        self._comms.abandon()

    # --- requests that need no worker --------------------------------------------------------------------------------

    def _execute(self, request: Request) -> None:
        self._pool.try_again()
        self._journal.open(request)
        if request.message.header.subshell_id is None:
            self._executions.submit(request)
        else:
            self._all_subshells().submit(request)

    def _comm(self, request: Request) -> None:
        self._pool.try_again()
        self._comms.take(request)

    def _kernel_info(self, request: Request) -> dict[str, Any]:
        version = ".".join(str(part) for part in sys.version_info[:3])
        return {
            "status": "ok",
            "protocol_version": PROTOCOL,
            "implementation": "capsule",
            "implementation_version": __version__,
            "language_info": {
                "name": "python",
                "version": version,
                "mimetype": "text/x-python",
                "file_extension": ".py",
                "pygments_lexer": "ipython3",
                "codemirror_mode": {"name": "ipython", "version": 3},
                "nbconvert_exporter": "python",
            },
            "banner": f"Python {sys.version}\nCapsule {__version__}\n",
            "help_links": _HELP_LINKS,
            "debugger": True,
            "supported_features": ["debugger", "kernel subshells", "capsule replay"],
        }

    def _connect(self, request: Request) -> dict[str, Any]:
        connection = self._connection
        return {
            "status": "ok",
            "shell_port": connection.shell_port,
            "iopub_port": connection.iopub_port,
            "stdin_port": connection.stdin_port,
            "control_port": connection.control_port,
            "hb_port": connection.hb_port,
        }

    def _comm_info(self, request: Request) -> dict[str, Any]:
        content = msgspec.json.decode(request.message.raw_content, type=_CommInfoContent)
        return {"status": "ok", "comms": self._comms.info(content.target_name)}

    def _interrupt(self, request: Request) -> dict[str, Any]:
        self._on_interrupt()
        return {"status": "ok"}

    def _on_interrupt(self, *, by_signal: bool = False) -> None:
        if self._executions.is_busy:
            self._executions.interrupt(by_signal=by_signal)
        else:
            self._comms.interrupt()

    def _shutdown(self, request: Request) -> dict[str, Any]:
        content = msgspec.json.decode(request.message.raw_content, type=_ShutdownContent)
        reply = {"status": "ok", "restart": content.restart}
        self._iopub.publish("shutdown_reply", encode_json(reply), parent=request.parent)
        # After this request's reply and idle.
        self._loop.call_soon(self.stop)
        return reply

    async def _is_complete(self, request: Request) -> dict[str, Any]:
        content = msgspec.json.decode(request.message.raw_content, type=_CodeContent)
        try:
            answer = await asyncio.wait_for(self._pool.is_complete(content.code), _IS_COMPLETE_DEADLINE_S)
        except TimeoutError:
            answer = None
        if answer is None:
            return {"status": "unknown"}
        if answer.status == "incomplete":
            return {"status": "incomplete", "indent": answer.indent}
        return {"status": answer.status}

    def _replay(self, request: Request) -> None:
        from capsule_kernel.front.replay import Replay

        Replay(journal=self._journal, iopub=self._iopub, replies=self._replies).handle(request)

    def _answer_usage(self, request: Request) -> dict[str, Any]:
        usage = self._usage.measure()
        promises = self._bridge.statistics
        return usage if promises is None else {**usage, "promises": promises}

    def _answer_history(self, request: Request) -> Awaitable[dict[str, Any]]:
        return self._query_history(request, self._executions.hold_back(_HISTORY_AHEAD_S))

    async def _query_history(self, request: Request, let_go: Callable[[], None]) -> dict[str, Any]:
        try:
            arguments = msgspec.json.decode(request.message.raw_content, type=dict[str, Any])
            return {"status": "ok", "history": await self._history.query(arguments)}
        finally:
            # After the reply and idle, which are sent in the same turn of the loop.
            self._loop.call_soon(let_go)

    def _all_subshells(self) -> Subshells:
        if self._subshells is None:
            from capsule_kernel.front.subshells import Subshells

            self._subshells = Subshells(
                iopub=self._iopub,
                replies=self._replies,
                bridge=self._bridge,
                clock=self._clock,
                session=lambda: self._pool.serving,
                on_exit=self.stop,
                engine=self._wire.session,
            )
        return self._subshells

    async def _debug(self, request: Request) -> dict[str, Any]:
        if self._debugger is None:
            from capsule_kernel.front.debugger import Debugger

            self._debugger = Debugger(
                iopub=self._iopub,
                session=lambda: self._pool.serving,
                running=lambda: self._executions.running,
                folder=self._cell_prefix,
                loop=self._loop,
            )
        return await self._debugger.handle(request)

    async def _ready_for_debugging(self, debugger: Debugger, session: Session) -> None:
        await debugger.on_ready()
        if session is self._pool.serving:
            self._executions.on_ready(session)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_worker(self, session: Session, ask: int, arguments: dict[str, Any]) -> None:
        session.say(HistoryAnswer(ask=ask, rows=list(await self._history.query(arguments))))

    # --- what it is made of ------------------------------------------------------------------------------------------

    @functools.cached_property
    def _cell_prefix(self) -> str:
        """Where cells lie, as they say: one for the front's life, so that breakpoints survive a change of worker."""
        from tempfile import gettempdir  # a start does not wait for it

        return os.path.join(gettempdir(), f"ipykernel_{os.getpid()}", "")

    def _worker_options(self) -> WorkerOptions:
        settings = self._settings
        return WorkerOptions(
            cell_prefix=self._cell_prefix,
            executor_factory=settings.executor_factory,
            compile_cache_size=settings.compile_cache_size,
            stream_interval_ms=settings.stream_interval_ms,
            max_output_bytes=settings.max_output_bytes,
            durable_input=settings.durable_input,
            checkpoint_idle_ms=settings.checkpoint_idle_ms,
            checkpoint_proof_idle_ms=settings.checkpoint_proof_idle_ms,
            snapshots=settings.snapshots > 0,
            session_name=os.environ.get("JPY_SESSION_NAME", ""),
            kernel_argv=sys.argv,
            connection_file=self._connection_file,
        )

    def _history_file(self) -> str:
        if self._settings.history_file:
            return os.path.expanduser(self._settings.history_file)
        profile = "default"
        for argument in self._launch.ipython_args:
            if argument.startswith("--profile="):
                profile = argument.partition("=")[2]
        return default_file(dict(os.environ), profile)

    def _watch_parent(self) -> None:
        """End with the process that started the kernel (`JPY_PARENT_PID`): nobody else would end it."""
        try:
            parent = int(os.environ.get("JPY_PARENT_PID", "0"))
        except ValueError:
            return
        if parent <= 1:
            return
        try:
            pidfd = os.pidfd_open(parent)
        except ProcessLookupError:
            self.stop()
            return
        except OSError as exc:
            _log.warning("process %d of JPY_PARENT_PID cannot be watched: %s", parent, exc)
            return
        self._loop.add_reader(pidfd, self._on_parent_end, pidfd)

    def _on_parent_end(self, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        self.stop()


_HELP_LINKS = [
    {"text": "Python Reference", "url": f"https://docs.python.org/{sys.version_info[0]}.{sys.version_info[1]}"},
    {"text": "IPython Reference", "url": "https://ipython.org/documentation.html"},
    {"text": "NumPy Reference", "url": "https://docs.scipy.org/doc/numpy/reference/"},
    {"text": "SciPy Reference", "url": "https://docs.scipy.org/doc/scipy/reference/"},
    {"text": "Matplotlib Reference", "url": "https://matplotlib.org/contents.html/"},
    {"text": "pandas Reference", "url": "https://pandas.pydata.org/pandas-docs/stable/"},
]


def _session_name(setting: str) -> str:
    """Return whose checkpoints this kernel takes: a durable run's own also where a notebook started it."""
    if setting.startswith("run:"):
        return setting
    return os.environ.get("JPY_SESSION_NAME") or setting or os.getcwd()
