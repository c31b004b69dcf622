"""Everything that goes out on iopub: the one writer, in order, at a pace that Jupyter's server lets through.

Source: Jupyter messaging, "Messages on the IOPub channel"; JEP 65 for the welcome.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

from capsule_kernel.clock import Clock
from capsule_kernel.front.journal import Journal
from capsule_kernel.front.sockets import Channel
from capsule_kernel.wire.jupyter import Wire, encode_json

_UNDER_WAY_BYTES = 1 << 26
# As much as a worker sends at once: no piece of that size waits for others.
_HELD_CHARACTERS = 1 << 18
_RECHECK_S = 0.01
_STALLED_AFTER_S = 2.0
_BUDGET = 0.93
_WINDOW_MARGIN = 1.08
_SLOW_FROM = 0.75

_UNCOUNTED = frozenset({"status", "comm_open", "execute_input"})
"""What the server's limiter does not count."""

_STATUS = {
    "busy": b'{"execution_state":"busy"}',
    "idle": b'{"execution_state":"idle"}',
    "starting": b'{"execution_state":"starting"}',
}


class IOPub:
    """The publisher."""

    def __init__(
        self, channel: Channel, wire: Wire, *, clock: Clock, journal: Journal, rate: int, window_ms: int
    ) -> None:
        self._channel = channel
        self._wire = wire
        self._clock = clock
        self._journal = journal
        self._pace = _Pace(rate, window_ms) if rate > 0 else None
        self._backlog = _Backlog()
        self._topic = f"kernel.{wire.session}.".encode()
        self._held: dict[str, _Held] = {}
        self.busy_parent: bytes | None = None

    def start(self) -> None:
        """Greet subscribers from now on, and say that the kernel starts."""
        self._channel.start(self._on_subscription)
        self.publish("status", _STATUS["starting"], parent=b"{}")

    def publish(
        self,
        msg_type: str,
        content: bytes,
        *,
        parent: bytes,
        metadata: bytes = b"{}",
        buffers: list[bytes] | None = None,
    ) -> None:
        """Publish a message, after text that is held; `content`, `parent` and `metadata` are JSON."""
        if self._held and not msg_type.startswith("comm_"):
            self.release()
        self._send(msg_type, content, parent=parent, metadata=metadata, buffers=buffers)

    def _send(
        self,
        msg_type: str,
        content: bytes,
        *,
        parent: bytes,
        metadata: bytes = b"{}",
        buffers: list[bytes] | None = None,
    ) -> None:
        date = self._clock.iso_now()
        self._journal.note(msg_type, content, parent=parent, metadata=metadata, buffers=buffers, date=date)
        self._write(msg_type, content, parent=parent, metadata=metadata, buffers=buffers, date=date)

    def publish_again(
        self, msg_type: str, content: bytes, *, parent: bytes, metadata: bytes, buffers: list[bytes] | None
    ) -> None:
        """Publish what the journal has already."""
        date = self._clock.iso_now()
        self._write(msg_type, content, parent=parent, metadata=metadata, buffers=buffers, date=date)

    def _write(
        self, msg_type: str, content: bytes, *, parent: bytes, metadata: bytes, buffers: list[bytes] | None, date: str
    ) -> None:
        if self._pace is not None and msg_type not in _UNCOUNTED:
            self._pace.note(self._clock.monotonic())
        self._channel.send(
            self._wire.encode(
                msg_type,
                content,
                parent=parent,
                date=date,
                metadata=metadata,
                buffers=buffers,
                idents=[self._topic + msg_type.encode()],
            )
        )

    def stream(self, name: str, text: str, *, parent: bytes) -> None:
        """Publish text of `stdout` or `stderr`."""
        self.publish("stream", encode_json({"name": name, "text": text}), parent=parent)

    def hold(self, name: str, text: str, *, parent: bytes) -> None:
        """Keep text of `stdout` or `stderr` until `release`, or until anything else is published.

        Pieces of one moment become one message, first what stands in `stdout`, as ipykernel has it.
        """
        held = self._held.get(name)
        if held is not None and held.parent != parent:
            self.release()
            held = None
        if held is None:
            held = self._held[name] = _Held(parent)
        held.texts.append(text)
        held.characters += len(text)
        if held.characters >= _HELD_CHARACTERS:
            self.release(name)

    def release(self, name: str | None = None) -> None:
        """Publish what is held of a stream, or of both."""
        for each in ("stdout", "stderr") if name is None else (name,):
            held = self._held.pop(each, None)
            if held is not None:
                content = encode_json({"name": each, "text": "".join(held.texts)})
                self._send("stream", content, parent=held.parent)

    def status(self, state: str, *, parent: bytes) -> None:
        """Publish busy or idle for a request."""
        self.publish("status", _STATUS[state], parent=parent)
        if state == "idle" and self._pace is not None:
            self._pace.begin_anew()
        if state == "idle" and self.busy_parent is not None and self.busy_parent != parent:
            # Front ends and the server's culling take the last state for the kernel's: a completion's idle would call
            # a kernel idle that runs a cell.
            self.publish("status", _STATUS["busy"], parent=self.busy_parent)

    @contextlib.contextmanager
    def handling(self, parent: bytes) -> Iterator[None]:
        """Publish busy before the block and idle after it, however it ends."""
        self.status("busy", parent=parent)
        try:
            yield
        finally:
            self.status("idle", parent=parent)

    def wait_s(self) -> float:
        """Return for how long no more output should be taken from the worker, in seconds; usually 0."""
        wait_s = self.backlog_wait_s()
        return max(wait_s, self._pace.wait_s(self._clock.monotonic())) if self._pace is not None else wait_s

    def backlog_wait_s(self) -> float:
        """Return for how long to wait before asking again whether the clients have caught up, in seconds."""
        return self._backlog.wait_s(*self._channel.under_way_bytes(), self._clock.monotonic())

    def _on_subscription(self, frames: list[bytes]) -> None:
        if len(frames) != 1 or not frames[0].startswith(b"\x01"):
            return
        subscription = frames[0][1:]
        try:
            text = subscription.decode()
        except UnicodeDecodeError:
            return
        self._channel.send(
            self._wire.encode(
                "iopub_welcome",
                encode_json({"subscription": text}),
                parent=b"{}",
                date=self._clock.iso_now(),
                idents=[subscription],
            )
        )


class _Held:
    """Text of one stream that is not published yet."""

    def __init__(self, parent: bytes) -> None:
        self.parent = parent
        self.texts: list[str] = []
        self.characters = 0


class _Backlog:
    """The wait that keeps what clients have not read yet within `_UNDER_WAY_BYTES`.

    A child process can write faster than any client reads, and publishing never blocks. So no more is taken from the
    worker while too much is under way: its pipes fill, and whoever writes waits, as with a slow terminal.

    Not bounded: messages of less than 64 KB, of which there are few (text leaves in pieces at intervals, and `_Pace`
    limits the rest where it is on); and what is published once a client has read nothing for `_STALLED_AFTER_S`, since
    one that hangs must not hold up the others for ever.
    """

    def __init__(self) -> None:
        self._left_bytes = 0
        self._progress_at = 0.0

    def wait_s(self, under_way_bytes: int, left_bytes: int, now: float) -> float:
        is_over = under_way_bytes > _UNDER_WAY_BYTES
        if not is_over or left_bytes != self._left_bytes:
            self._left_bytes, self._progress_at = left_bytes, now
        return _RECHECK_S if is_over and now - self._progress_at < _STALLED_AFTER_S else 0.0


class _Pace:
    """Messages over a sliding window, and the wait that keeps them within the rate.

    The server drops what exceeds `iopub_msg_rate_limit` over `rate_limit_window`. Up to three quarters of what it lets
    through go out at once; the rest is spread over the time until the oldest leave the window. With each idle the
    server begins anew, so that "Run All" does not meet the limit.
    """

    def __init__(self, rate: int, window_ms: int) -> None:
        # The server counts arrivals, which a client that lags behind bunches up: the window is a little longer here.
        self._window_s = window_ms / 1000 * _WINDOW_MARGIN
        self._limit = max(1, int(rate * window_ms / 1000 * _BUDGET))
        self._slow_from = int(self._limit * _SLOW_FROM)
        self._times: deque[float] = deque()

    def note(self, now: float) -> None:
        self._times.append(now)
        if len(self._times) > self._limit:
            self._times.popleft()

    def begin_anew(self) -> None:
        self._times.clear()

    def wait_s(self, now: float) -> float:
        times = self._times
        if len(times) <= self._slow_from:
            return 0.0
        while times and times[0] <= now - self._window_s:
            times.popleft()
        count = len(times)
        if count <= self._slow_from:
            return 0.0
        return (times[0] + self._window_s - now) / max(1, self._limit - count)
