"""The worker: what a fork of the zygote becomes.

Main thread: user code and its event loop. Reader thread: see `reader`. Nothing else, so that a snapshot can be forked.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import importlib
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, assert_never

from capsule_kernel import resuming
from capsule_kernel.state import frozen, snapshots
from capsule_kernel.state.snapshots import Role
from capsule_kernel.wire.framing import FrameDecoder
from capsule_kernel.wire.worker_messages import (
    PROTOCOL_VERSION,
    Comm,
    Done,
    Execute,
    FromWorker,
    HistoryQuery,
    InterruptSeen,
    Ready,
    Shutdown,
    ToWorker,
    Wake,
    WorkerOptions,
    decode_to_worker,
)
from capsule_kernel.worker import output, parents, standin
from capsule_kernel.worker.app import IPKernelApp
from capsule_kernel.worker.channel import Channel
from capsule_kernel.worker.checkpoints import Checkpoints
from capsule_kernel.worker.comms import CommDelivery
from capsule_kernel.worker.debugging import Debugging
from capsule_kernel.worker.hot_pages import HotPages
from capsule_kernel.worker.interrupt import ExecutionCancellation
from capsule_kernel.worker.kernel import Questions, WorkerKernel
from capsule_kernel.worker.lineage import Lineage, Links, Moment, renew_loop
from capsule_kernel.worker.loop import CoroutineManager, EventLoopCoordinator, LoopRunner
from capsule_kernel.worker.midcell import MidCell
from capsule_kernel.worker.mimejson import encode_content
from capsule_kernel.worker.polling import Polling
from capsule_kernel.worker.reader import Reader
from capsule_kernel.worker.shell import text_of
from capsule_kernel.worker.subshells import SubshellExecutor

_READ_BYTES = 1 << 18
_HISTORY_DEADLINE_S = 5.0
_READ_IN_NEED_BYTES = 1 << 12
_RESERVE_BYTES = 1 << 20
_CAPTURE_S = 0.01
"""Between what an Output widget took up and the end of its cell. nbclient answers each such output on its shell socket,
and misses a reply that comes in while it does (pyzmq's asynchronous sockets lose an edge): it would wait for ever."""
_OUT_OF_MEMORY = b"MemoryError: the worker had no memory left to go on.\n"
_OUT_OF_MEMORY_STATUS = 70
_PR_SET_PDEATHSIG = 1


class Worker:
    """One worker process, from the fork to its end."""

    def __init__(
        self,
        *,
        app: IPKernelApp,
        options: WorkerOptions,
        main: socket.socket,
        side: socket.socket,
        births: socket.socket,
        fault_fd: int,
        libc: ctypes.CDLL,
    ) -> None:
        self._app = app
        self._shell = app.shell
        self._options = options
        self._main = main
        self._fault = fault_fd
        self._libc = libc
        self._pid = os.getpid()
        self._reserve = _reserve()
        self._inbox: deque[ToWorker] = deque()
        self._taking = threading.Lock()
        self._decoder = FrameDecoder()
        self._cancellation = ExecutionCancellation()
        self._channel = Channel(main, self._cancellation)
        self._side_channel = Channel(side, self._cancellation)
        self._questions = Questions()
        self._coordinator = EventLoopCoordinator()
        self._coroutines = CoroutineManager()
        self._comms = CommDelivery(
            shell=self._shell,
            channel=self._channel,
            cancellation=self._cancellation,
            coordinator=self._coordinator,
        )
        self._lineage = Lineage(
            links=Links(main, side),
            births=births,
            is_wanted=options.snapshots,
            say=self._channel.send,
        )
        libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
        self._hot_pages = HotPages(libc.madvise)
        self._checkpoints = Checkpoints(
            shell=self._shell,
            births=births,
            links=(main, side),
            is_named=bool(options.session_name),
            idle_s=options.checkpoint_idle_ms / 1000,
            proof_idle_s=options.checkpoint_proof_idle_ms / 1000,
            parked=self._parked,
            prctl=libc.prctl,
            event_loop=self._coordinator.ensure_event_loop,
        )
        self._newest: tuple[int, int] = (0, 0)
        resuming.install(
            MidCell(
                lineage=self._lineage,
                cancellation=self._cancellation,
                newest=lambda: self._newest,
                is_ours=lambda: os.getpid() == self._pid,
                parked=self._parked,
                wake_up=self._wake_up,
            ).take
        )
        self._streams = (output.STDOUT, output.STDERR)
        self._debugging = Debugging(shell=self._shell, births=births, folder=options.cell_prefix)
        self.kernel = WorkerKernel(
            shell=self._shell,
            channel=self._channel,
            cancellation=self._cancellation,
            questions=self._questions,
            connection_file=options.connection_file,
            durable_input=options.durable_input,
        )
        self._subshells = SubshellExecutor(
            shell=self._shell, channel=self._channel, coordinator=self._coordinator, kernel=self.kernel
        )
        self._reader = Reader(
            side,
            channel=self._side_channel,
            shell=self._shell,
            questions=self._questions,
            cancellation=self._cancellation,
            comms=self._comms,
            debugging=self._debugging,
            subshells=self._subshells,
            interval_ms=options.stream_interval_ms,
        )

    def run(self) -> None:
        """Serve until the front says to leave; then run the exit handlers. Does not return to the zygote's code."""
        try:
            self._serve()
        except MemoryError:
            self._end_without_memory()

    def _serve(self) -> None:
        self._set_up()
        self._channel.send(Ready(pid=self._pid, version=PROTOCOL_VERSION))
        while True:
            patience_s, do_when_idle = self._idle_work()
            message: ToWorker | None = self._coordinator.wait(self._inbox, patience_s)
            if message is None:
                do_when_idle()
                continue
            match message:
                case Execute():
                    is_attempt = self.kernel.attempts.is_asked(message.code)
                    if self._begin_attempt() if is_attempt else self._take_overdue_snapshot():
                        # This is the snapshot, and the cell was the worker's to run.
                        continue
                    self._lineage.reap_helper()
                    before_s = self._shell.code_s
                    self._execute(message)
                    self._lineage.note_run(self._shell.code_s - before_s)
                    self._checkpoints.note_run(
                        self._newest[0], is_interactive=message.allow_stdin and message.store_history
                    )
                case Comm():
                    # It came in one read with the cell before it.
                    self._coordinator.ensure_event_loop().call_soon(self._handle, message)
                case Shutdown():
                    self._leave()
                case Wake():
                    continue
                case _:
                    assert_never(message)
            if os.getpid() != self._pid:
                # A child that user code forked has come to the end of its cell.
                self._leave_child()

    def _idle_work(self) -> tuple[float | None, Callable[[], object]]:
        """Return what to do when no message comes, and after how many seconds; None: never."""
        patience_s = self._lineage.patience_s
        if patience_s is not None:
            return patience_s, self._take_snapshot
        if self._hot_pages.is_waiting:
            return 0.0, self._hot_pages.touch
        return self._checkpoints.patience_s, self._checkpoints.take_when_due

    def _set_up(self) -> None:
        faulthandler.enable(self._fault, all_threads=True)
        self._cancellation.install(self._on_interrupt_seen)
        self._cancellation.stopped = self._debugging.interrupted
        self._main.setblocking(True)
        self._coordinator.on_new_loop(self._listen)
        self._coordinator.ensure_event_loop()
        _reseed()
        frozen.note_start()
        shell = self._shell
        shell.kernel = self.kernel
        shell.outlet.channel = self._channel
        shell.outlet.max_output_bytes = self._options.max_output_bytes
        shell.loop_runner = LoopRunner(self._coordinator)
        shell.compile.cell_prefix = self._options.cell_prefix
        shell.compile.cache_size = self._options.compile_cache_size
        shell.history_manager.connect(self._query_history)
        self.kernel.executor = _factory(self._options.executor_factory)(
            shell=shell,
            coordinator=self._coordinator,
            cancellation=self._cancellation,
            coroutines=self._coroutines,
        )
        self.kernel.polling = Polling(coordinator=self._coordinator, handle_waiting=self._handle_waiting)
        shell.builtin_trap.auto_builtins["checkpoint"] = resuming.checkpoint
        shell.builtin_trap.auto_builtins["input"] = self.kernel.take_over_input()
        # For good, rather than in and out for each cell: tasks and threads between cells want `input` as well.
        shell.builtin_trap.__enter__()
        if self._options.session_name:
            shell.user_ns["__session__"] = self._options.session_name
        sys.argv = list(self._options.kernel_argv)
        for stream in self._streams:
            stream.connect(self._channel, self._reader.wake_for_output)
        output.keep_order_with_children(self._channel)
        os.register_at_fork(after_in_child=self._after_fork_in_child)
        standin.introduce(self.kernel)
        self._reader.start()
        try:
            self._coordinator.context.run(self._app.apply)
        except (Exception, SystemExit):  # noqa: BLE001 - start-up files are user code
            shell.showtraceback()
        shell.has_started = True
        output.flush_streams()
        self._checkpoints.note_start()
        self.kernel.checkpoints = self._checkpoints

    # --- cells -------------------------------------------------------------------------------------------------------

    def _execute(self, message: Execute) -> None:
        shell = self._shell
        shell.note_request(message.serial, lambda: parents.request_of(message))
        self._coordinator.context.run(parents.begin, message.serial)
        shell.count_from(message.execution_count)
        shell.begin_cell()
        shell.last_transformed = ""
        self.kernel.allow_stdin = message.allow_stdin
        if self._inbox:
            # Comm messages that came in one read with the cell: for its first await, if it has one. In two steps, since
            # the cell's task is not on the loop yet.
            loop = self._coordinator.ensure_event_loop()
            loop.call_soon(loop.call_soon, self._handle_comms)
        assert self.kernel.executor is not None
        result = self.kernel.executor.execute(
            self.kernel.attempts.body_of(message.code),
            silent=message.silent,
            store_history=message.store_history,
            cell_id=message.cell_id,
            serial=message.serial,
        )
        if os.getpid() != self._pid:
            self._leave_child()
        if self.kernel.attempts.hint:
            output.STDOUT.write(self.kernel.attempts.hint)
        if message.user_expressions:
            with self._coordinator.stepping_aside():
                content = self._coordinator.context.run(self._reply, message, result)
        else:
            content = self._reply(message, result)
        self._newest = (shell.execution_count - 1, message.serial)
        done = Done(
            serial=message.serial,
            status=content["status"],
            content=encode_content(content),
            next_count=shell.execution_count,
            transformed=shell.last_transformed if shell.last_transformed != message.code else "",
            output=shell.history_manager.output_hist_reprs.get(message.execution_count),
            logs_output=shell.history_manager.db_log_output,
            exiting=bool(shell.exit_now) or any(p.get("source") == "ask_exit" for p in content["payload"]),
            keep_kernel=bool(shell.keepkernel_on_exit),
            replace_worker=self.kernel.replace_worker,
            undo=self.kernel.undo,
            attempt=self.kernel.attempts.take_news(),
            report=encode_content(self.kernel.report) if self.kernel.report else b"",
        )
        self.kernel.undo = 0
        self.kernel.report = {}
        self._send_end(done)
        if self._reserve is None:
            # Perhaps that cell has let go of something.
            self._reserve = _reserve()

    def _reply(self, message: Execute, result: Any) -> dict[str, Any]:
        """Return the content of the `execute_reply`."""
        shell = self._shell
        error = result.error_before_exec if result.error_before_exec is not None else result.error_in_exec
        content: dict[str, Any] = {"status": "ok"}
        if error is not None or shell.has_display_failed:
            content = {
                "status": "error",
                "ename": type(error).__name__,
                "evalue": text_of(error),
                "traceback": shell.last_traceback or [],
            }
        content["execution_count"] = shell.execution_count - 1
        expressions = message.user_expressions if error is None else {}
        content["user_expressions"] = shell.user_expressions(expressions) if expressions else {}
        content["payload"] = shell.payload_manager.read_payload()
        shell.payload_manager.clear_payload()
        return content

    def _send_end(self, done: Done) -> None:
        """Send what the streams hold and the end of the cell, in one write."""
        if self.kernel.captures_output:
            self.kernel.captures_output = False
            for stream in self._streams:
                stream.flush()
            time.sleep(_CAPTURE_S)
        messages: list[FromWorker] = []
        for name, stream in zip(("stdout", "stderr"), self._streams, strict=True):
            current = getattr(sys, name, None)
            if current is not stream:
                output.flush_foreign(current)
            held = stream.take(done.serial)
            if held is not None:
                messages.append(held)
        if len(messages) == 1 and self._is_small(messages[0]):
            self._channel.send_together([*messages, done])
            return
        for message in messages:
            self._channel.send(message)
        self._channel.send(done)

    def _is_small(self, message: FromWorker) -> bool:
        return len(getattr(message, "text", "")) < _READ_BYTES

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def _take_overdue_snapshot(self) -> bool:
        """Fork a snapshot if the next cell should wait for one; return whether this process is it, woken up."""
        return self._lineage.is_overdue and self._take_snapshot(is_awaited=True)

    def _take_snapshot(self, *, is_awaited: bool = False) -> bool:
        """Fork a snapshot; return whether this process is the snapshot, woken up as the worker."""
        count, serial = self._newest
        lock = self._reader.parked()
        if not lock.acquire(blocking=False):
            # A completion is under way, for example: it stays due.
            return False
        try:
            self._hot_pages.learn_when_due()
            role = self._lineage.take(Moment(count, serial), own_threads=self._reader.threads, is_awaited=is_awaited)
        finally:
            lock.release()
        if not self._lineage.refusal:
            self._hot_pages.begin()
        if role is Role.WORKER:
            return False
        self._wake_up(Moment(count, serial))
        return True

    def _begin_attempt(self) -> bool:
        """Fork the snapshot that an attempt is a branch of; return whether this process is that, woken up."""
        count, serial = self._newest
        moment = Moment(count, serial)
        with self._parked() as threads:
            role = self._lineage.take(moment, own_threads=threads, is_awaited=True)
        if role is Role.SNAPSHOT:
            self._wake_up(moment)
            return True
        self.kernel.attempts.begin(serial, self._lineage.refusal)
        return False

    @contextlib.contextmanager
    def _parked(self) -> Iterator[list[threading.Thread]]:
        """Bracket a fork in the middle of a cell: the reader thread only waits."""
        with self._reader.parked():
            yield self._reader.threads

    def _wake_up(self, moment: Moment) -> None:
        """Be the worker: this process was its snapshot until now."""
        self._renew()
        # Until it has a snapshot of its own, another death would lose everything.
        is_wanted = self._lineage.is_refork_wanted or bool(moment.running)
        while is_wanted and self._lineage.take(moment, is_awaited=True) is Role.SNAPSHOT:
            self._renew()
        self._lineage.reap_helper()
        self._channel.send(
            Ready(
                pid=self._pid,
                version=PROTOCOL_VERSION,
                comms=self._comms.open_comms(),
                notes=self._lineage.notes,
                running=moment.running,
            )
        )
        # The front may send a cell meanwhile.
        self._reader.start()
        self._coordinator.ensure_event_loop().call_soon(self._comms.show_again)

    def _renew(self) -> None:
        """Have what a fork has left behind anew, but for the reader thread."""
        self._pid = os.getpid()
        zygote = os.getppid()
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != zygote:
            os._exit(0)
        self._inbox.clear()
        self._decoder = FrameDecoder()
        renew_loop(self._coordinator.ensure_event_loop())
        self._channel.renew()
        self._side_channel.renew()
        self._reader.renew()
        self._debugging.renew()
        for stream in self._streams:
            stream.renew(self._reader.wake_for_output)
        snapshots.revive_pools()

    # --- what comes in -----------------------------------------------------------------------------------------------

    def _listen(self, loop: Any) -> None:
        loop.add_reader(self._main, self._on_readable)

    def _on_readable(self) -> None:
        # A cell may await meanwhile: its interrupt must not lose what has been read.
        is_held = self._cancellation.hold()
        try:
            with self._taking:
                data = self._receive()
                if not data:
                    self._inbox.append(Shutdown())
                    self._coordinator.ensure_event_loop().remove_reader(self._main)
                for payload in self._decoder.feed(data):
                    self._inbox.append(decode_to_worker(payload))
        except (InterruptedError, BlockingIOError):
            return
        except MemoryError:
            # What has been read is lost with it.
            self._end_without_memory()
        finally:
            if is_held:
                self._cancellation.release()
        self._handle_comms()
        if self._inbox:
            self._coordinator.wake()

    def _receive(self) -> bytes:
        try:
            return self._main.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except MemoryError:
            # User code holds all there is. With the reserve the next cell, which may free some, can still run.
            self._reserve = None
            return self._main.recv(_READ_IN_NEED_BYTES, socket.MSG_DONTWAIT)

    def _handle_comms(self) -> None:
        """Handle comm messages up to the next cell; called on the loop."""
        while self._inbox and isinstance(self._inbox[0], Comm):
            message = self._inbox.popleft()
            assert isinstance(message, Comm)
            self._handle(message)

    def _handle_waiting(self) -> None:
        """Handle comm messages up to the next cell, in a thread for which a cell waits."""
        messages: list[Comm] = []
        with self._taking:
            with contextlib.suppress(BlockingIOError):
                # At its end there is nothing here; the main thread will find that.
                for payload in self._decoder.feed(self._receive()):
                    self._inbox.append(decode_to_worker(payload))
            while self._inbox and isinstance(self._inbox[0], Comm):
                messages.append(self._inbox.popleft())  # type: ignore[arg-type]  # looked at in the line before
        for message in messages:
            self._handle(message)

    def _handle(self, message: Comm) -> None:
        self._comms.handle(message)
        if os.getpid() != self._pid:
            self._leave_child()

    def _on_interrupt_seen(self, serial: int) -> None:
        self._channel.send(InterruptSeen(serial=serial))

    def _query_history(self, arguments: dict[str, Any]) -> list[Any]:
        ask = self._questions.open()
        self._channel.send(HistoryQuery(ask=ask, arguments=arguments))
        rows: list[Any] = self._questions.wait(ask, _HISTORY_DEADLINE_S)
        return rows

    # --- ends --------------------------------------------------------------------------------------------------------

    def _after_fork_in_child(self) -> None:
        for stream in self._streams:
            stream.after_fork_in_child()
        self._channel.after_fork_in_child()
        self._side_channel.after_fork_in_child()

    def _end_without_memory(self) -> NoReturn:
        os.write(self._fault, _OUT_OF_MEMORY)
        os._exit(_OUT_OF_MEMORY_STATUS)

    def _leave_child(self) -> None:
        for stream in self._streams:
            stream.flush()
        os._exit(0)

    def _leave(self) -> None:
        # Handlers run as at the end of any Python program; non-daemon threads are not waited for.
        try:
            atexit._run_exitfuncs()  # noqa: SLF001 - a forked process has no other way to run them
        except BaseException:  # noqa: BLE001 - exit handlers are user code; the process ends all the same
            self._shell.showtraceback()
        for stream in self._streams:
            stream.flush()
        os._exit(0)


def _reserve() -> bytearray | None:
    """Return memory to let go of when there is no other (address space only: it is never touched)."""
    try:
        return bytearray(_RESERVE_BYTES)
    except MemoryError:
        return None


def _factory(name: str) -> Callable[..., Any]:
    """Return the attribute that `module:attribute` names."""
    module, _, attribute = name.partition(":")
    factory: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return factory


def _reseed() -> None:
    """Give this worker random streams of its own: all workers are forks of one process."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
