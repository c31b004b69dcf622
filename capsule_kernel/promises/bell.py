"""Wakes the processes that wait for promises of one file: each has a datagram socket in the folder beside it.

A ring says only that something happened; what, stands in the log. One that gets lost costs a moment: whoever waits also
looks from time to time. Only the file's owner can enter the folder.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading

from capsule_kernel.clock import Clock

_FRESH_MS = 50
"""A folder's time stamp has the grain of the system's tick: for so long after a change another may be hidden."""


class Bell:
    """One process's end; for any thread.

    Args:
        path: the file that is watched.
        clock: the time of day.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._clock = clock
        self.folder = f"{path}.wake"
        self._name = ""
        self._socket: socket.socket | None = None
        self._folder_fd = -1
        self._known: tuple[str, ...] = ()
        self._known_at_ns = -1
        self._lock = threading.Lock()

    def open(self) -> socket.socket:
        """Return the socket that becomes readable when somebody rings.

        Raises:
            OSError: the folder cannot be used.
        """
        with self._lock:
            if self._socket is None:
                os.makedirs(self.folder, mode=0o700, exist_ok=True)
                own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                try:
                    own.setblocking(False)
                    name = f"{os.getpid()}-{os.urandom(4).hex()}"
                    own.bind(self._address(name))
                except BaseException:
                    own.close()
                    raise
                self._name, self._socket = name, own
            return self._socket

    def hush(self) -> None:
        """Take the rings that have come."""
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(16)

    def ring(self) -> None:
        """Wake the others. Whoever cannot be reached will look by itself."""
        with self._lock:
            names = [name for name in self._others() if name != self._name]
            if names:
                self._send(names)

    def close(self) -> None:
        """Nobody can wake this process any more."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.folder, self._name))
            self._leave_folder()

    def _send(self, names: list[str]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.setblocking(False)
            for name in names:
                try:
                    speaker.sendto(b"1", self._address(name))
                except ConnectionRefusedError:
                    with contextlib.suppress(OSError):  # its process is dead; another may have removed it already
                        os.unlink(os.path.join(self.folder, name))
                except OSError:
                    continue  # full: it has not even read the earlier rings

    def _others(self) -> tuple[str, ...]:
        # Mostly nobody waits, and there is no folder: an error takes longer than the question.
        if not os.access(self.folder, os.F_OK):
            return ()
        try:
            changed_ns = os.stat(self.folder).st_mtime_ns
            if changed_ns != self._known_at_ns:
                self._leave_folder()
                self._known = tuple(os.listdir(self.folder))
                is_old = self._clock.unix_ms() - changed_ns // 1_000_000 > _FRESH_MS
                self._known_at_ns = changed_ns if is_old else -1
        except FileNotFoundError:
            return ()
        return self._known

    def _address(self, name: str) -> str:
        """Return a socket's address: through a descriptor, as an address has room for 108 bytes only."""
        if self._folder_fd < 0:
            self._folder_fd = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder_fd}/{name}"

    def _leave_folder(self) -> None:
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1
