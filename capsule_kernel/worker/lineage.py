"""When the worker is forked as a snapshot, and how a snapshot becomes the worker.

A snapshot is due after a moment of idleness, or before a cell: before the first that could lose something, and once
much has run since the newest one. Otherwise it is not in the way of a burst of small cells. It sleeps on links of its
own, whose other ends it has sent to the front.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from capsule_kernel.state import snapshots
from capsule_kernel.state.snapshots import Role
from capsule_kernel.state.surroundings import Surroundings, look_around, look_at_holdings
from capsule_kernel.wire.framing import FrameDecoder
from capsule_kernel.wire.worker_messages import Born, SnapshotRefused, Wake, decode_to_worker, encode_birth

IDLE_S = 0.02
"""Idleness after which a snapshot is due, in seconds: with less, the cells of a client that sends one after the other
meet the snapshot between them, and take three times as long."""

_COSTS_BETWEEN = 50
_FIRST_COST_S = 0.004
_CHEAP_S = 0.05
_PATIENCE_S = 2.0
_HANGS_MAX = 2
_HANGS = (
    f"a fork of this worker did not begin to sleep within {_PATIENCE_S:g} s (a handler of `os.register_at_fork` that "
    "does not come back?)"
)
_PAUSE_S, _PAUSE_MAX_S = 0.5, 64.0
"""After how long it is tried again where there could be none: twice as long each time, in seconds."""
_OOM_SCORE = "/proc/self/oom_score_adj"
_OOM_SCORE_MAX = "1000"


class Links(NamedTuple):
    """The worker's two sockets, whose descriptors a snapshot replaces by its own."""

    main: socket.socket
    side: socket.socket


class Moment(msgspec.Struct, frozen=True):
    """What a snapshot holds."""

    count: int
    """The newest cell that has run, by its number."""
    serial: int
    """The same by its request."""
    running: int = 0
    """The request whose cell is in its middle, 0: none."""
    ordinal: int = 0
    """Which of the worker's calls of `checkpoint()` it is."""
    line: int = 0
    """The line that called it."""


class Lineage:
    """Takes the snapshots of a worker."""

    def __init__(
        self,
        *,
        links: Links,
        births: socket.socket,
        is_wanted: bool,
        say: Callable[[SnapshotRefused], None],
        monotonic: Callable[[], float] = time.monotonic,
        processor: Callable[[], float] = time.thread_time,
    ) -> None:
        self._links = links
        self._births = births
        self._is_wanted = is_wanted
        self._say = say
        self._monotonic = monotonic
        self._processor = processor
        self._ran_s = 0.0
        self._cost_s = _FIRST_COST_S
        # What it took of a processor: a machine under load makes it no more dangerous to do without.
        self._processor_s = _FIRST_COST_S
        self._is_due = False
        # Without one a death costs all that was there, not the last moment's work.
        self._has_none = True
        self._refused_at = -math.inf
        self._pause_s = 0.0
        self._helper = 0
        self._hangs = 0
        self._last_reason = ""
        self._oom_score = ""
        self._is_chosen = False
        self.refusal = ""
        """Why the last `take` took none, else empty."""
        self.notes: list[str] = []
        """What this process did not carry over from the one that it was forked from, one sentence each."""

    @property
    def patience_s(self) -> float | None:
        """How long to wait for a message before a snapshot is taken; None: none is due."""
        if not self._is_due or not self._is_wanted:
            return None
        return max(IDLE_S, self._refused_at + self._pause_s - self._monotonic())

    @property
    def is_overdue(self) -> bool:
        """Whether the next cell should wait for a snapshot: there is none yet, or much has run since the newest."""
        if not self._is_due or not self._is_wanted or self._monotonic() < self._refused_at + _PAUSE_S:
            return False
        return self._ran_s > (0 if self._has_none else _COSTS_BETWEEN * self._cost_s)

    @property
    def is_refork_wanted(self) -> bool:
        """Whether who takes over should fork before it serves: there is danger, and it takes next to nothing."""
        return not self._is_chosen and self._processor_s < _CHEAP_S

    def note_run(self, seconds: float) -> None:
        """Note that user code has run."""
        self._ran_s += seconds
        self._is_due = True
        # What stood in the way may have gone.
        self._pause_s = 0.0

    def reap_helper(self) -> None:
        """Take the exit status of the last fork's helper, before user code could find it among its children."""
        if self._helper:
            with contextlib.suppress(ChildProcessError):
                self._hangs += not _reap(self._helper, _PATIENCE_S)
            self._helper = 0

    def take(self, moment: Moment, *, own_threads: Sequence[threading.Thread] = (), is_awaited: bool = False) -> Role:
        """Fork a snapshot; returns in the worker, and in the snapshot when it is woken.

        Called on the main thread, with the other threads of the worker parked. `refusal` says why there is none.

        Args:
            moment: what it holds.
            own_threads: those threads.
            is_awaited: whether the worker goes on only when the front would find the snapshot.
        """
        self.reap_helper()
        around = look_around()
        self.refusal = self._reason_against(own_threads, around)
        if self.refusal:
            self._say_refused(moment.count)
            return Role.WORKER
        main, own_main = socket.socketpair()
        side, own_side = socket.socketpair()
        done, childs_done = os.pipe()
        begun, begun_processor = self._monotonic(), self._processor()
        try:
            role, self._helper = snapshots.fork_snapshot()
            self._cost_s = self._monotonic() - begun
            self._processor_s = self._processor() - begun_processor
        except OSError as exc:
            self.refusal = f"fork failed: {exc.strerror}"
            self._say_refused(moment.count)
            role = Role.WORKER
        if role is Role.SNAPSHOT:
            self._announce(moment, main, side, own_main, own_side, begun=begun)
        os.close(childs_done)
        if role is Role.WORKER and is_awaited and not self.refusal and not _is_ready(done, _PATIENCE_S):
            self._hangs += 1
            with contextlib.suppress(ChildProcessError):
                _reap(self._helper, 0)
            self._helper = 0
            self.refusal = _HANGS
            self._say_refused(moment.count)
        os.close(done)
        for sock in (main, side, own_main, own_side):
            sock.close()
        if role is Role.SNAPSHOT:
            self._sleep(around)
        elif not self.refusal:
            self._last_reason = ""
            self._is_due = self._has_none = False
            self._ran_s = self._pause_s = 0.0
            self._refused_at = -math.inf
        return role

    def _reason_against(self, own_threads: Sequence[threading.Thread], around: Surroundings) -> str:
        if self._hangs >= _HANGS_MAX:
            self._is_wanted = False
            return f"{_HANGS}; none is taken any more"
        if not self._is_wanted:
            return "the setting `snapshots` is 0"
        return snapshots.reason_against(own_threads, around.locks)

    def _say_refused(self, count: int) -> None:
        self._pause_s = min(max(2 * self._pause_s, _PAUSE_S), _PAUSE_MAX_S)
        self._refused_at = self._monotonic()
        if self.refusal != self._last_reason:
            self._last_reason = self.refusal
            self._say(SnapshotRefused(count=count, reason=self.refusal))

    def _announce(
        self,
        moment: Moment,
        main: socket.socket,
        side: socket.socket,
        own_main: socket.socket,
        own_side: socket.socket,
        *,
        begun: float,
    ) -> None:
        """In the snapshot: take links of its own, and send the front their other ends."""
        os.setpgid(0, 0)
        self._oom_score = _be_first_to_go()
        # The worker's links are its own: here the same descriptors become this process's.
        os.dup2(own_main.fileno(), self._links.main.fileno(), inheritable=False)
        os.dup2(own_side.fileno(), self._links.side.fileno(), inheritable=False)
        cost_us = int((self._monotonic() - begun) * 1e6)
        born = encode_birth(Born(pid=os.getpid(), cost_us=cost_us, **msgspec.structs.asdict(moment)))
        try:
            socket.send_fds(self._births, [born], [main.fileno(), side.fileno()])
        except OSError:
            os._exit(0)

    def _sleep(self, around: Surroundings) -> None:
        """Sleep until the front needs this snapshot; does not return if it does not."""
        holdings = look_at_holdings()
        self._wait_for_wake()
        _set_oom_score(self._oom_score)
        self._is_due = self._has_none = True
        self._ran_s = 0.0
        self._helper = 0
        self.notes = around.notes_on_waking(holdings)

    def _wait_for_wake(self) -> None:
        decoder = FrameDecoder()
        sock = self._links.main
        while True:
            try:
                data = sock.recv(4096)
            except InterruptedError:
                continue
            except OSError:
                os._exit(0)
            if not data:
                # The front has dropped this snapshot, or is gone.
                os._exit(0)
            for payload in decoder.feed(data):
                match decode_to_worker(payload):
                    case Wake(is_chosen=is_chosen):
                        self._is_chosen = is_chosen
                        return
                    case _:
                        continue


def _is_ready(descriptor: int, timeout_s: float) -> bool:
    """Wait until nobody has the other end of a pipe, or until the process of a pidfd has ended; whether it has."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(timeout_s * 1000))


def _reap(pid: int, timeout_s: float) -> bool:
    """Take a child's exit status; one that does not end in time is killed. Return whether it has ended by itself.

    Raises:
        ChildProcessError: somebody else has taken it.
    """
    if os.waitpid(pid, os.WNOHANG)[0]:
        return True
    is_ended = True
    try:
        process = os.pidfd_open(pid)
    except OSError:
        # It has just been taken; or the system has no descriptor for us, and it has to be waited for as it is.
        pass
    else:
        is_ended = _is_ready(process, timeout_s)
        if not is_ended:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)
    os.waitpid(pid, 0)
    return is_ended


def _be_first_to_go() -> str:
    """Have the system end this process before any other when memory runs out; return its score until now."""
    try:
        with open(_OOM_SCORE, encoding="ascii") as file:
            before = file.read().strip()
    except OSError:
        return ""
    _set_oom_score(_OOM_SCORE_MAX)
    return before


def _set_oom_score(score: str) -> None:
    # Raising it is always allowed, and so is to lower it to where it was (proc(5)); without /proc it stays.
    if score:
        with contextlib.suppress(OSError), open(_OOM_SCORE, "w", encoding="ascii") as file:
            file.write(score)


def renew_loop(loop: Any) -> None:
    """Give a loop that was inherited by fork a selector and a self-pipe of its own.

    The epoll object is shared with the process that it comes from: what would be unregistered here would be there too.
    """
    selector = loop._selector  # noqa: SLF001 - asyncio has no public way
    fresh = select.epoll()
    for key in list(selector.get_map().values()):
        if key.fd == loop._ssock.fileno():  # noqa: SLF001 - as above
            continue
        events = (select.EPOLLIN if key.events & 1 else 0) | (select.EPOLLOUT if key.events & 2 else 0)
        try:
            fresh.register(key.fd, events)
        except OSError:
            # A descriptor that epoll does not take any more: closed, or a file.
            continue
    inherited, selector._selector = selector._selector, fresh  # noqa: SLF001 - as above
    inherited.close()
    fresh.register(loop._ssock.fileno(), select.EPOLLIN)  # noqa: SLF001 - as above
    loop._close_self_pipe()  # noqa: SLF001 - as above
    loop._make_self_pipe()  # noqa: SLF001 - as above
    if loop._signal_handlers:  # noqa: SLF001 - as above
        # In a fork's child asyncio takes it away.
        signal.set_wakeup_fd(loop._csock.fileno())  # noqa: SLF001 - as above
