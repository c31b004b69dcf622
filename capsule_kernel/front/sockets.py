"""The five channels on ZMQ: the only module that imports it.

The sockets' descriptor is edge-triggered: after anything was sent or received, what else has come in shows in EVENTS
only, so that is asked again each time. One missed edge would leave a kernel pending for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import cast

import zmq

from capsule_kernel.errors import BindError
from capsule_kernel.front.connection import Connection

_log = logging.getLogger(__name__)
_MESSAGES_AT_ONCE = 64
_LINGER_MS = 1000
_ZERO_COPY_BYTES = 1 << 16
_BIND_DEADLINE_S = 0.5
_BIND_INTERVAL_S = 0.02

# As plain integers: pyzmq's enums cost several microseconds at each use.
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_RCVMORE = int(zmq.RCVMORE)
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

Frames = list[bytes]


class Channel:
    """One ZMQ socket on the loop."""

    def __init__(self, sock: zmq.Socket[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._sock = sock
        # What pyzmq's own methods add in Python is not needed here; their overloads know neither a computed `copy` nor
        # which options are numbers.
        self._send = cast("Callable[[bytes, int, bool, bool], zmq.MessageTracker]", super(zmq.Socket, sock).send)
        self._recv = super(zmq.Socket, sock).recv
        self._get = cast("Callable[[int], int]", super(zmq.Socket, sock).get)
        self._loop = loop
        self._on_frames: Callable[[Frames], None] | None = None
        self._is_check_due = False
        self._under_way: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._under_way_bytes = 0
        self._left_bytes = 0

    def start(self, on_frames: Callable[[Frames], None]) -> None:
        """Hand each multipart message to `on_frames` from now on."""
        self._on_frames = on_frames
        self._loop.add_reader(self._sock.fileno(), self._on_edge)
        self._check_soon()

    def send(self, frames: Frames) -> None:
        """Send one multipart message; a peer that has gone is no error."""
        send = self._send
        last = len(frames) - 1
        try:
            for number, frame in enumerate(frames):
                flags = _NOBLOCK if number == last else _NOBLOCK_MORE
                if len(frame) < _ZERO_COPY_BYTES:
                    send(frame, flags, True, False)
                else:
                    self.under_way_bytes()
                    self._under_way.append((send(frame, flags, False, True), len(frame)))
                    self._under_way_bytes += len(frame)
        except zmq.ZMQError:
            # EAGAIN or EHOSTUNREACH: whoever asked has disconnected.
            return
        finally:
            if not self._is_check_due:
                self._check_soon()

    def under_way_bytes(self) -> tuple[int, int]:
        """Return how much of the long frames that were sent has not left yet for all peers, and how much ever has.

        Short frames are copied by ZMQ and not counted.
        """
        under_way = self._under_way
        while under_way and under_way[0][0].done:
            size = under_way.popleft()[1]
            self._under_way_bytes -= size
            self._left_bytes += size
        return self._under_way_bytes, self._left_bytes

    def receive_all(self) -> list[Frames]:
        """Take what has come in and not been handed over."""
        taken: list[Frames] = []
        while (frames := self._receive()) is not None:
            taken.append(frames)
        return taken

    def close(self) -> None:
        """Close the socket; what was sent still goes out for up to a second."""
        if self._on_frames is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._on_frames = None
        self._sock.close(_LINGER_MS)

    def _check_soon(self) -> None:
        self._is_check_due = True
        self._loop.call_soon(self._check)

    def _check(self) -> None:
        self._is_check_due = False
        self._on_edge()

    def _on_edge(self) -> None:
        for _ in range(_MESSAGES_AT_ONCE):
            on_frames = self._on_frames
            if on_frames is None:
                # Closed, perhaps by what the last message asked for.
                return
            frames = self._receive()
            if frames is None:
                return
            try:
                on_frames(frames)
            except Exception:  # noqa: BLE001 - the top of what one message can reach
                # A defect in whatever handles one message costs that message, never the channel: leaving here would
                # strand those behind it, since the descriptor is edge-triggered.
                _log.exception("a message could not be handled")
        # More may be there; let the loop do other things between.
        if not self._is_check_due:
            self._check_soon()

    def _receive(self) -> Frames | None:
        """Return a multipart message, None when there is none."""
        if not self._get(_EVENTS) & _POLLIN:
            return None
        try:
            frames = [self._recv(_NOBLOCK)]
            while self._get(_RCVMORE):
                frames.append(self._recv(_NOBLOCK))
        except zmq.Again:
            return None
        return frames


class Sockets:
    """The channels of one kernel, bound."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._context = zmq.Context()
        # The heartbeat has a context of its own: it answers whatever the loop and the GIL do.
        self._heartbeat_context = zmq.Context()
        self._heartbeat = self._heartbeat_context.socket(zmq.ROUTER)
        before = _threads()
        self._sockets = {
            "control": self._router(),
            "shell": self._router(),
            "iopub": self._publisher(),
            "stdin": self._router(),
            "hb": self._heartbeat,
        }
        _let_precede(_threads() - before)
        self.control = Channel(self._sockets["control"], loop)
        self.shell = Channel(self._sockets["shell"], loop)
        self.iopub = Channel(self._sockets["iopub"], loop)
        self.stdin = Channel(self._sockets["stdin"], loop)

    def bind(self, connection: Connection) -> Connection:
        """Bind all channels; return `connection` with the ports that were taken.

        Raises:
            BindError: an address cannot be bound.
        """
        ports: dict[str, int] = {}
        keys = connection.curve_keys
        for name, sock in self._sockets.items():
            address = connection.address(name)
            try:
                if keys is not None:
                    _encrypt(sock, *keys)
                _bind(sock, address)
            except zmq.ZMQError as exc:
                raise BindError(name, address, exc.strerror or str(exc)) from exc
            except ValueError as exc:
                raise BindError(name, address, str(exc)) from exc
            if connection.transport == "tcp":
                endpoint = sock.getsockopt(zmq.LAST_ENDPOINT)
                assert isinstance(endpoint, bytes)
                ports[f"{name}_port"] = int(endpoint.rsplit(b":", 1)[1])
        threading.Thread(target=self._beat, name="capsule-heartbeat", daemon=True).start()
        if not ports:
            return connection
        fields = {field: getattr(connection, field) for field in connection.__struct_fields__}
        return Connection(**{**fields, **ports})

    def close(self) -> None:
        """Close the channels and wait until what was sent has left, a second at the most."""
        for channel in (self.shell, self.control, self.stdin, self.iopub):
            channel.close()
        self._context.term()

    def _router(self) -> zmq.Socket[bytes]:
        sock = self._context.socket(zmq.ROUTER)
        sock.setsockopt(zmq.LINGER, _LINGER_MS)
        # A client that reconnects with its identity takes over.
        sock.setsockopt(zmq.ROUTER_HANDOVER, 1)
        sock.setsockopt(zmq.SNDHWM, 0)
        sock.setsockopt(zmq.RCVHWM, 0)
        return sock

    def _publisher(self) -> zmq.Socket[bytes]:
        sock = self._context.socket(zmq.XPUB)
        sock.setsockopt(zmq.LINGER, _LINGER_MS)
        # JEP 65: every subscriber is greeted, not only the first of a topic.
        sock.setsockopt(zmq.XPUB_VERBOSE, 1)
        # The default high-water mark would drop output.
        sock.setsockopt(zmq.SNDHWM, 0)
        return sock

    def _beat(self) -> None:
        try:
            zmq.proxy(self._heartbeat, self._heartbeat)
        except zmq.ZMQError:
            # The process ends.
            return


def _threads() -> set[int]:
    """Return this process's threads, as the system numbers them; none where it does not say."""
    try:
        return set(map(int, os.listdir("/proc/self/task")))
    except OSError:
        return set()


def _let_precede(threads: set[int]) -> None:
    """Have ZMQ's own threads leave the loop's alone until that waits, and take what it has sent in one go.

    They would take the processor with each message. Not by ZMQ's option for it (`THREAD_SCHED_POLICY`), which ends the
    process where the system refuses.
    """
    for thread in threads:
        # A sandbox may refuse; the thread may have ended.
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def _bind(sock: zmq.Socket[bytes], address: str) -> None:
    """Bind `sock`; what looks for free ports beside us may have this one for an instant."""
    deadline = time.monotonic() + _BIND_DEADLINE_S
    while True:
        try:
            sock.bind(address)
        except zmq.ZMQError as exc:
            if exc.errno != zmq.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(_BIND_INTERVAL_S)
        else:
            return


def _encrypt(sock: zmq.Socket[bytes], public_key: bytes, secret_key: bytes) -> None:
    """Have `sock` accept CurveZMQ clients only that know the public key (jupyter_client, "Transport encryption").

    Raises:
        ValueError: these are no keys, or no pair.
        zmq.ZMQError: the library cannot encrypt.
    """
    try:
        is_pair = zmq.curve_public(secret_key) == public_key
    except (ValueError, zmq.ZMQError):
        is_pair = False
    if not is_pair:
        # With another public key than its own it would listen to nobody, and say nothing.
        raise ValueError("curve_publickey and curve_secretkey of the connection file are no pair of CurveZMQ keys")
    sock.setsockopt(zmq.CURVE_SECRETKEY, secret_key)
    sock.setsockopt(zmq.CURVE_PUBLICKEY, public_key)
    sock.setsockopt(zmq.CURVE_SERVER, 1)
