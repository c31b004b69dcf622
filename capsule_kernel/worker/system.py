"""`!command` and `%system`'s live form: a shell in a pseudo-terminal, its output streamed while it runs.

The command stays in the worker's process group, which the front sends SIGINT at an interrupt; what that does not end
gets SIGTERM and SIGKILL. It dies with the worker for the same reason.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import termios
import time

_READ_BYTES = 1 << 16
_GRACE_S = 0.15
_ROWS, _COLUMNS = 24, 80


def run_command(command: str) -> int:
    """Run `command` in the user's shell, its output going to `sys.stdout`; return its exit status.

    A status below zero is the signal that ended it, as `subprocess` has it, or that a shell tells with 128 more.

    Raises:
        OSError: there is no such shell.
    """
    shell = _shell()
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    try:
        process = subprocess.Popen(
            [shell, "-c", command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
    finally:
        os.close(slave)
    pidfd = os.pidfd_open(process.pid)
    try:
        _pump(master, pidfd)
    except KeyboardInterrupt:
        _end(process, master)
    finally:
        os.close(pidfd)
        os.close(master)
    status = process.wait()
    return 128 - status if status > 128 else status


def _shell() -> str:
    """Return the path of `$SHELL`, else of `sh`: it stands before what the shell complains of."""
    name = os.environ.get("SHELL") or "sh"
    path = shutil.which(name) or (shutil.which("/bin/sh") if name == "sh" else None)
    if path is None:
        raise OSError(f"the shell {name!r} is not found: set SHELL to one that is there")
    return path


def _pump(master: int, pidfd: int) -> None:
    """Copy the terminal's output until the command has ended and the terminal is empty."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    poll = select.poll()
    poll.register(master, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if master in ready:
            data = _read(master)
            if not data:
                break
            _print(decoder.decode(data))
        elif pidfd in ready:
            # Ended, and nothing left to read: a child that it left behind may keep the terminal open.
            break
    _print(decoder.decode(b"", final=True))


def _print(text: str) -> None:
    # Unlike `sys.stdout.write`, it works where user code has set that to None.
    print(text, end="", flush=True)  # noqa: T201


def _read(master: int) -> bytes:
    try:
        return os.read(master, _READ_BYTES)
    except OSError:
        # EIO: nobody has the other side open.
        return b""


def _end(process: subprocess.Popen[bytes], master: int) -> None:
    # It has had its SIGINT as a member of the group.
    for number in (0, signal.SIGTERM, signal.SIGKILL):
        for pid in (*_descendants(process.pid), process.pid) if number else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + _GRACE_S
        poll = select.poll()
        poll.register(master, select.POLLIN)
        while process.poll() is None and (left := deadline - time.monotonic()) > 0:
            if poll.poll(min(left, 0.01) * 1000) and not _read(master):
                poll.unregister(master)
        if process.poll() is not None:
            return


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            for word in file.read().split():
                found += (*_descendants(int(word)), int(word))
    except OSError:
        return found
    return found
