"""A kernel process: started with a connection file of its own, found again by a mark in its environment, always ended.

The mark finds every descendant of the launched process, also one that was re-parented or left its process group.
Linux only (`/proc`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from .kernels import Kernel

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
_MARK = "CAPSULE_BENCH_MARK"


class KernelError(Exception):
    """A kernel did not do what was measured: recorded in the table in place of a figure."""


class Scratch:
    """The run's own temporary directories: configuration, history and caches, equally warm for all kernels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cwd = root / "cwd"
        self.cwd.mkdir()

    def environment(self, kernel: Kernel) -> dict[str, str]:
        """The environment that a kernel is started with, apart from its mark."""
        own = self.root / kernel.name
        own.mkdir(exist_ok=True)
        return os.environ | {
            "IPYTHONDIR": str(own / "ipython"),
            "JUPYTER_CONFIG_DIR": str(own / "config"),
            "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
            "XDG_CACHE_HOME": str(own / "cache"),
            "JPY_PARENT_PID": str(os.getpid()),
        }


def marked_pids(mark: str) -> list[int]:
    """The living processes whose environment holds the mark."""
    needle = f"{_MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if needle in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def mark_environment(environment: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A fresh mark, and the environment with it."""
    mark = uuid.uuid4().hex
    return mark, environment | {_MARK: mark}


def kill_marked(mark: str, deadline_s: float = 5.0) -> None:
    """Kill the processes that bear the mark, and wait until they are gone."""
    end = time.monotonic() + deadline_s
    while pids := marked_pids(mark):
        if time.monotonic() > end:
            msg = f"processes {pids} survive SIGKILL"
            raise KernelError(msg)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


class KernelProcess:
    """A launched kernel. Construct, `start()`, use, `kill()` (or `with`)."""

    def __init__(self, kernel: Kernel, scratch: Scratch) -> None:
        self.kernel = kernel
        self.connection = free_connection()
        self.mark, self._environment = mark_environment(scratch.environment(kernel))
        self._cwd = scratch.cwd
        self._connection_file = scratch.root / f"kernel-{self.mark}.json"
        self._connection_file.write_text(json.dumps(self.connection))
        self._log_file = self._connection_file.with_suffix(".log")
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Launch as jupyter_client does: a session of its own, no terminal input."""
        argv = [part.format(connection_file=self._connection_file) for part in self.kernel.argv]
        with self._log_file.open("wb") as log:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._cwd,
                env=self._environment,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        """The launched process, which leads its process group."""
        if self._popen is None:
            msg = f"{self.kernel.name} was not started"
            raise KernelError(msg)
        return self._popen.pid

    def check_alive(self) -> None:
        """Raise KernelError, after a failure with the last line it wrote, when the launched process has ended."""
        if self._popen is not None and (status := self._popen.poll()) is not None:
            msg = f"the kernel exited with status {status}"
            if status > 0:
                lines = self._log_file.read_text(errors="replace").split("\n")
                msg += ": " + next((line.strip()[:120] for line in reversed(lines) if line.strip()), "no output")
            raise KernelError(msg)

    def interrupt_by_signal(self) -> None:
        """SIGINT to the process group, as jupyter_client's LocalProvisioner does."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """End every process of this kernel."""
        if self._popen is not None:
            self._popen.kill()
            kill_marked(self.mark)
            self._popen.wait()
        for file in (self._connection_file, self._log_file):
            file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def free_connection() -> dict[str, str | int]:
    """Contents of a connection file on tcp loopback ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for channel in CHANNELS:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports[f"{channel}_port"] = int(listener.getsockname()[1])
        return {
            "transport": "tcp",
            "ip": "127.0.0.1",
            "key": uuid.uuid4().hex,
            "signature_scheme": "hmac-sha256",
            **ports,
        }
