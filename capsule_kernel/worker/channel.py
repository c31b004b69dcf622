"""The worker's end of its links: the only place that writes to them, one whole message at a time.

An interrupt in the middle of a write would tear a frame, so interrupts wait for its end. A child that user code forks
must not write here at all: it is told so, and its text goes to descriptors 1 and 2.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import threading
import time
from collections import deque

from capsule_kernel.wire.framing import encode_frames
from capsule_kernel.wire.worker_messages import FromWorker, encode
from capsule_kernel.worker.interrupt import ExecutionCancellation

_LOOK_AGAIN_S = 0.0001


class Channel:
    """Sends messages to the front, from any thread."""

    def __init__(self, sock: socket.socket, cancellation: ExecutionCancellation) -> None:
        self._sock = sock
        self._cancellation = cancellation
        self._lock = threading.Lock()
        self._owner = 0
        self._behind: deque[bytes] = deque()
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this is the worker itself, and not a child that user code forked."""
        return os.getpid() == self._pid

    def send(self, message: FromWorker) -> None:
        """Send `message`; a front that is gone is no error, since the worker is about to end as well."""
        self._write(encode_frames(encode(message)))

    def send_together(self, messages: list[FromWorker]) -> None:
        """Send several messages in one write."""
        self._write(b"".join([encode_frames(encode(message)) for message in messages]))

    def wait_received(self, patience_s: float) -> None:
        """Wait until the front has read all that was sent, for `patience_s` at most: it may be told to read slowly."""
        deadline = time.monotonic() + patience_s
        try:
            # unix(7), SIOCOUTQ on a socket: bytes that the peer has not read.
            while struct.unpack("i", fcntl.ioctl(self._sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0]:
                if time.monotonic() > deadline:
                    return
                time.sleep(_LOOK_AGAIN_S)
        except OSError:
            return

    def after_fork_in_child(self) -> None:
        """Forget a lock that a thread of the parent may have held."""
        self._lock = threading.Lock()
        self._owner = 0

    def renew(self) -> None:
        """Belong to this process: it was a snapshot of the one that it comes from."""
        self._lock = threading.Lock()
        self._owner = 0
        self._behind.clear()
        self._pid = os.getpid()

    def _write(self, frames: bytes) -> None:
        if os.getpid() != self._pid:
            return
        if self._owner == threading.get_ident():
            # A signal handler of user code's prints, in the middle of a write: its frames come behind it.
            self._behind.append(frames)
            return
        is_held = self._cancellation.hold()
        try:
            with self._lock:
                self._owner = threading.get_ident()
                try:
                    self._sock.sendall(frames)
                    while self._behind:
                        self._sock.sendall(self._behind.popleft())
                finally:
                    self._owner = 0
        except OSError:
            return
        finally:
            if is_held:
                self._cancellation.release()
