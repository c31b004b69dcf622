"""The zygote: a process of one thread that has IPython imported and forks workers in milliseconds.

It never runs user code but for importing what `preload` names. When its socket closes it ends its workers and leaves;
while it still imports, the parent-death signal does that.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import select
import signal
import socket
import sys
import traceback
from typing import TYPE_CHECKING, assert_never

import msgspec

from capsule_kernel.stack import roomy
from capsule_kernel.wire.framing import FrameDecoder, encode_frames
from capsule_kernel.wire.worker_messages import (
    WORKER_DESCRIPTORS,
    Completeness,
    Exited,
    Fork,
    Forked,
    FromZygote,
    IsComplete,
    WorkerOptions,
    ZygoteOptions,
    ZygoteReady,
    decode_to_zygote,
    encode,
)

if TYPE_CHECKING:
    from capsule_kernel.worker.app import IPKernelApp

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_READ_BYTES = 1 << 16
_OUT_OF_MEMORY = b"MemoryError: the worker had no memory left to go on.\n"
_MAX_DESCRIPTORS = 16 * len(WORKER_DESCRIPTORS)


def main(control_fd: int, options_json: str) -> None:
    """Import, then serve the socket `control_fd` until it closes. Does not return."""
    parent = os.getppid()
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    # The front decides what an interrupt means; here it would only end a process that must not end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    options = msgspec.json.decode(options_json, type=ZygoteOptions)
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    # The slow part, once the process cannot be orphaned.
    from capsule_kernel.worker.warm import prepare

    try:
        app, failures = prepare(options)
    except BaseException:  # noqa: BLE001 - the process's top: the reason goes where the kernel's log goes
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)
    # From now on the closed socket tells of the front's end, and what workers leave behind can be cleaned up first.
    libc.prctl(_PR_SET_PDEATHSIG, 0)
    # Snapshots, and what a dead worker leaves, become this process's children: it reaps them and reports.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    zygote = Zygote(control, app, libc)
    zygote.say(ZygoteReady(failures=failures))
    zygote.serve()


class Zygote:
    """Forks workers, reports their ends, and says whether code is complete."""

    def __init__(self, control: socket.socket, app: IPKernelApp, libc: ctypes.CDLL) -> None:
        self._control = control
        self._app = app
        self._libc = libc
        self._decoder = FrameDecoder()
        self._descriptors: list[int] = []
        self._workers: set[int] = set()
        self._own: tuple[int, ...] = ()

    def say(self, message: FromZygote) -> None:
        """Tell the front something."""
        self._control.sendall(encode_frames(encode(message)))

    @roomy  # workers run user code from here
    def serve(self) -> None:
        """Serve until the front closes the socket."""
        from capsule_kernel.worker import tracebacks  # imported by `prepare`

        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        # Adopted children have no pidfd here: their ends show as SIGCHLD.
        ends, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        poll.register(ends, select.POLLIN)
        self._own = (ends, wakeup)
        idle_ms: int | None = tracebacks.WARM_AFTER_MS
        try:
            while True:
                ready = poll.poll(idle_ms)
                if not ready:
                    idle_ms = None
                    tracebacks.warm_grammar()
                    gc.freeze()
                for descriptor, _ in ready:
                    if descriptor == self._control.fileno():
                        if not self._receive():
                            return
                    else:
                        os.read(ends, _READ_BYTES)
                        self._reap()
        except OSError:
            # The front is gone in the middle of a message.
            return
        finally:
            self._end_workers()
            os._exit(0)

    def _receive(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, _READ_BYTES, _MAX_DESCRIPTORS)
        for descriptor in descriptors:
            # Programs that user code starts must not inherit the links. (`recv_fds` ignores MSG_CMSG_CLOEXEC.)
            os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        if not data:
            return False
        for payload in self._decoder.feed(data):
            message = decode_to_zygote(payload)
            match message:
                case Fork():
                    self._fork(message)
                case IsComplete(serial=serial, code=code):
                    status, indent = self._completeness(code)
                    self.say(Completeness(serial=serial, status=status, indent=indent))
                case _:
                    assert_never(message)
        return True

    def _completeness(self, code: str) -> tuple[str, str]:
        """Return status and indent of an `is_complete_reply`."""
        try:
            status, spaces = self._app.shell.input_transformer_manager.check_complete(code)
        except Exception:  # noqa: BLE001 - IPython's tokenizer on arbitrary text; the protocol has a word for it
            return "unknown", ""
        return status, " " * (spaces or 0) if status == "incomplete" else ""

    def _fork(self, message: Fork) -> None:
        count = len(WORKER_DESCRIPTORS)
        descriptors, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        try:
            pid = os.fork()
        except OSError as exc:
            self.say(Forked(worker=message.worker, pid=0, error=f"fork failed: {exc}"))
            pid = -1
        if pid == 0:
            self._become_worker(message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        if pid < 0:
            return
        self._workers.add(pid)
        self.say(Forked(worker=message.worker, pid=pid))

    def _become_worker(self, message: Fork, descriptors: list[int]) -> None:
        try:
            zygote = os.getppid()
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != zygote or zygote == 1:
                os._exit(0)
            os.setpgid(0, 0)
            self._control.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in self._own:
                os.close(descriptor)
            from capsule_kernel.worker.root import Worker  # imported by `prepare`; here for the cycle

            main_fd, side_fd, out_fd, err_fd, fault_fd, births_fd = descriptors
            os.dup2(out_fd, 1)
            os.dup2(err_fd, 2)
            os.close(out_fd)
            os.close(err_fd)
            options = msgspec.msgpack.decode(message.options, type=WorkerOptions)
            Worker(
                app=self._app,
                options=options,
                main=socket.socket(fileno=main_fd),
                side=socket.socket(fileno=side_fd),
                births=socket.socket(fileno=births_fd),
                fault_fd=fault_fd,
                libc=self._libc,
            ).run()
        except BaseException as error:  # noqa: BLE001 - the worker's top: the front is told why it ends
            _tell_end(error, fault_fd=descriptors[4])
        finally:
            os._exit(70)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._workers.discard(pid)
            self.say(Exited(pid=pid, status=status))

    def _end_workers(self) -> None:
        for pid in {*self._workers, *_snapshots()}:
            try:
                os.killpg(pid, signal.SIGKILL)
            except OSError:
                continue


def _tell_end(error: BaseException, *, fault_fd: int) -> None:
    """Say why a worker ends: on descriptor 2, or in the file that the front reads at the worker's end."""
    reason = b""
    try:
        # Nothing is left to format a reason with, nor to say so in more words.
        if not isinstance(error, MemoryError) and getattr(error, "errno", None) != errno.ENOMEM:
            reason = "".join(traceback.format_exception(error)).encode()
    except MemoryError:
        pass
    if reason:
        os.write(2, reason)
    else:
        os.write(fault_fd, _OUT_OF_MEMORY)


def _snapshots() -> list[int]:
    """Return the pids of the children that are forks of this process: snapshots, awake or asleep.

    Other children were adopted: user code has left them running on purpose.
    """
    pid = os.getpid()
    own = _command_line(pid)
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split() if _command_line(int(word)) == own]


def _command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""
