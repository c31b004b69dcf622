"""A kernel's process as the tests start it, and the watch over everything that descends from it.

Each kernel gets its own home, connection file and a mark in its environment. A process of ours is one that carries the
mark: forks and children inherit it, whatever process group or parent they have afterwards.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

MARK = "CAPSULE_TEST_MARK"
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
UNDER_TEST = os.environ.get("CAPSULE_TEST_KERNEL", "capsule")
COMMANDS = {
    "capsule": (sys.executable, "-P", "-m", "capsule_kernel"),
    "ipykernel": (sys.executable, "-m", "ipykernel_launcher"),
}
GONE_DEADLINE_S = 5.0
"""Every orphan must have ended by then; the issue's bar is 1 s on a machine that is not shared."""
FOREIGN_PREFIXES = ("JUPYTER", "IPYTHON", "JPY_", "PYTHON", "MPL", "XDG_", "CAPSULE_", "PYTEST", "COV")


def kernel_command(connection_file: Path | str, *args: str) -> list[str]:
    """The command that starts the kernel under test on a connection file."""
    return [*COMMANDS[UNDER_TEST], "-f", str(connection_file), *args]


def isolated_environment(home: Path) -> dict[str, str]:
    """This process's environment without what would configure a kernel, and with a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_PREFIXES)}
    # Where this process has the package from: another checkout than the installed one, perhaps.
    if "PYTHONPATH" in os.environ:
        kept["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return kept | {
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter"),
        "JUPYTER_DATA_DIR": str(home / "share" / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_PLATFORM_DIRS": "0",
        "MPLCONFIGDIR": str(home / "matplotlib"),
        # debugpy (ipykernel imports it) would warn on stderr.
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        # Python's own warnings about a fork beside threads would be output that no test asked for.
        "PYTHONWARNINGS": "ignore::DeprecationWarning:multiprocessing.popen_fork",
    }


# Below what the system gives to sockets that ask for any port: none of those can take one before it is bound.
_PORTS = range(20_000, 32_000)
# Test processes that run side by side begin far from each other.
_port_numbers = itertools.cycle(range(len(_PORTS)))
_first_port = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) * 3_000 + os.getpid() * 7 % 3_000


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different, and not soon given out again."""
    ports: list[int] = []
    for _ in _PORTS:
        if len(ports) == count:
            return ports
        port = _PORTS[(_first_port + next(_port_numbers)) % len(_PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    msg = f"no {count} of the ports {_PORTS.start} to {_PORTS.stop} are free"
    raise AssertionError(msg)


def connection_info(directory: Path, *, transport: str = "tcp", key: str | None = None) -> dict[str, Any]:
    """The content of a connection file, as jupyter_client writes it."""
    common: dict[str, Any] = {
        "transport": transport,
        "key": uuid.uuid4().hex if key is None else key,
        "signature_scheme": "hmac-sha256",
        "kernel_name": "capsule",
    }
    if transport == "ipc":
        # With ipc, "ip" is a path prefix and a "port" its suffix: {ip}-{port}.
        ports = {f"{name}_port": number for number, name in enumerate(CHANNELS, 1)}
        return common | ports | {"ip": str(directory / "ipc")}
    return common | dict(zip((f"{n}_port" for n in CHANNELS), free_ports(5), strict=True)) | {"ip": "127.0.0.1"}


@dataclass(kw_only=True)
class KernelProcess:
    """One started kernel: its connection, its process and every process that carries its mark."""

    directory: Path
    info: dict[str, Any]
    popen: subprocess.Popen[bytes]
    mark: str
    environment: dict[str, str]
    cwd: Path
    sent: list[int] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        directory: Path,
        *args: str,
        info: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        parent_pid: int | None = None,
    ) -> Self:
        """Launch the kernel as jupyter_client does: own session, standard input closed, JPY_PARENT_PID set."""
        directory.mkdir(parents=True, exist_ok=True)
        home = directory / "home"
        home.mkdir(exist_ok=True)
        work = cwd or directory / "work"
        work.mkdir(exist_ok=True)
        info = info or connection_info(directory)
        path = directory / "connection.json"
        path.write_text(json.dumps(info))
        mark = uuid.uuid4().hex
        environment = isolated_environment(home) | (env or {})
        environment |= {MARK: mark, "JPY_PARENT_PID": str(os.getpid() if parent_pid is None else parent_pid)}
        with (directory / "stdout.txt").open("wb") as out, (directory / "stderr.txt").open("wb") as err:
            popen = subprocess.Popen(
                kernel_command(path, *args),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment,
                cwd=work,
                start_new_session=True,
            )
        assert popen.stdin is not None
        popen.stdin.close()
        return cls(directory=directory, info=info, popen=popen, mark=mark, environment=environment, cwd=work)

    @property
    def pid(self) -> int:
        """The process that was launched: the front."""
        return self.popen.pid

    @property
    def home(self) -> Path:
        """The kernel's HOME."""
        return self.directory / "home"

    def address(self, channel: str) -> str:
        """Where a channel listens."""
        port = self.info[f"{channel}_port"]
        if self.info["transport"] == "ipc":
            return f"ipc://{self.info['ip']}-{port}"
        return f"tcp://{self.info['ip']}:{port}"

    def is_alive(self) -> bool:
        """Whether the launched process still runs (reaps it if not)."""
        return self.popen.poll() is None

    def wait_exit(self, timeout_s: float = 10.0) -> int:
        """Wait for the launched process to end; its exit status (negative: a signal)."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            msg = f"the kernel (pid {self.pid}) did not end within {timeout_s} s\n{self.log()}"
            raise AssertionError(msg) from None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the launched process alone."""
        os.kill(self.pid, number)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the launched process's group, as jupyter_server's LocalProvisioner does."""
        os.killpg(self.pid, number)

    def processes(self) -> set[int]:
        """Every living process that carries this kernel's mark."""
        return marked_processes(self.mark)

    def wait_gone(self, timeout_s: float = GONE_DEADLINE_S) -> None:
        """Wait until no process carries the mark; fails naming those that do."""
        deadline = time.monotonic() + timeout_s
        self.popen.poll()
        while left := self.processes():
            wait_all_exited(left, deadline)
            self.popen.poll()
            if time.monotonic() >= deadline and (left := self.processes()):
                told = "\n".join(describe(pid) for pid in sorted(left))
                msg = f"still there {timeout_s} s later:\n{told}\n{self.log()}"
                raise AssertionError(msg)

    def destroy(self) -> None:
        """End every process of this kernel, whatever state it is in."""
        for _ in range(20):
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.popen.poll()
            left = self.processes()
            if not left:
                break
            wait_all_exited(left, time.monotonic() + 1)
        self.popen.wait(5)

    def log(self) -> str:
        """What the kernel's process wrote on its own standard output and error."""
        texts = [(name, (self.directory / name).read_text(errors="replace")) for name in ("stdout.txt", "stderr.txt")]
        return "\n".join(f"--- {name}\n{text[-2000:]}" for name, text in texts if text)


def marked_processes(mark: str) -> set[int]:
    """Every living process whose environment carries the mark; zombies have none."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:  # It ended meanwhile, or belongs to somebody else.
                continue
            if wanted in environ.split(b"\0"):
                found.add(int(entry.name))
    return found


def wait_all_exited(pids: set[int], deadline: float) -> None:
    """Wait until each of the processes has ended or the deadline (time.monotonic) has passed."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
        finally:
            os.close(pidfd)


def is_running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def describe(pid: int) -> str:
    """One line about a process, for a failure's text."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return f"{pid} (just ended)"
    return f"{pid}: state {stat[0]}, parent {stat[1]}, group {stat[2]}: {command}"
