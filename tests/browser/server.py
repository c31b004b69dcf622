"""JupyterLab as a person starts it: a real process on the loopback interface, with a home of its own.

It finds the kernelspec where installing the package put it (`{sys.prefix}/share/jupyter`) and asks nothing of the
network: neither news nor updates nor extensions. jupyter_server's rate limits are at their defaults.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from tests.kernel.process import MARK, describe, free_ports, isolated_environment, marked_processes, wait_all_exited

KERNEL = "capsule"
DISPLAY_NAME = "Python 3 (Capsule)"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0
ORPHAN_DEADLINE_S = 5.0
OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.terminals_enabled=False",
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
)
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    # A test saves when it says so.
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    # Enter asks the kernel whether the input is complete.
    "@jupyterlab/console-extension:tracker": {"interactionMode": "terminal"},
}


@dataclass(kw_only=True)
class LabServer:
    """One running JupyterLab: its process, its notebooks, and every process that descends from it."""

    directory: Path
    popen: subprocess.Popen[str]
    mark: str
    token: str
    lines: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Launch `jupyter lab` in a folder of its own and wait until it listens."""
        home = directory / "home"
        notebooks = directory / "notebooks"
        labconfig = home / "jupyter" / "labconfig"
        for each in (notebooks, labconfig):
            each.mkdir(parents=True)
        (labconfig / "default_setting_overrides.json").write_text(json.dumps(SETTINGS))
        mark, token = uuid.uuid4().hex, uuid.uuid4().hex
        popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", *OPTIONS),
                f"--ServerApp.port={free_ports(1)[0]}",
                f"--IdentityProvider.token={token}",
                f"--ServerApp.root_dir={notebooks}",
                f"--LabApp.workspaces_dir={home / 'workspaces'}",
                f"--LabApp.user_settings_dir={home / 'user-settings'}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=isolated_environment(home) | {MARK: mark},
            cwd=notebooks,
            start_new_session=True,
        )
        server = cls(directory=directory, popen=popen, mark=mark, token=token)
        threading.Thread(target=server._read_log, name="jupyterlab's log", daemon=True).start()
        try:
            server.wait_logged(" is running at:", START_DEADLINE_S)
        except AssertionError:
            server.destroy()
            raise
        return server

    @property
    def url(self) -> str:
        """Where the server listens, with a slash at the end."""
        told = json.loads((self.directory / "home" / "runtime" / f"jpserver-{self.popen.pid}.json").read_text())
        return str(told["url"])

    def path(self, name: str) -> Path:
        """A file in the folder that JupyterLab shows."""
        return self.directory / "notebooks" / name

    def write_notebook(self, name: str, *cells: str) -> None:
        """Make a notebook of code cells that asks for the kernel under test."""
        spec = {"name": KERNEL, "display_name": DISPLAY_NAME, "language": "python"}
        made = new_notebook(cells=[new_code_cell(each) for each in cells], metadata={"kernelspec": spec})
        nbformat.write(made, self.path(name))

    def read_notebook(self, name: str) -> Any:
        """A notebook as JupyterLab saved it, checked against the format's schema."""
        notebook = nbformat.read(self.path(name), as_version=nbformat.NO_CONVERT)
        nbformat.validate(notebook)
        return notebook

    def sessions(self) -> list[dict[str, Any]]:
        """The open notebooks and consoles, and which kernel each has."""
        answer: list[dict[str, Any]] = json.loads(self._ask("GET", "api/sessions"))
        return answer

    def end_sessions(self) -> None:
        """Shut down every kernel."""
        for session in self.sessions():
            self._ask("DELETE", f"api/sessions/{session['id']}")

    def log(self) -> str:
        """What the server and its kernels wrote on their own standard streams."""
        with self.changed:
            return "".join(self.lines)

    def wait_logged(self, text: str, timeout_s: float) -> None:
        """Wait until the server's log contains a text."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while text not in "".join(self.lines):
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    msg = f"JupyterLab (pid {self.popen.pid}) did not say {text!r}\n{''.join(self.lines)}"
                    raise AssertionError(msg)
                self.changed.wait(left)

    def stop(self) -> None:
        """End the server as a service manager does; fails if it, or a kernel's process, does not go."""
        try:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(STOP_DEADLINE_S / 3)
            except subprocess.TimeoutExpired:
                # jupyter_server has stopped by then, and Python waits for an idle thread of anyio's, which nobody ends.
                self.wait_logged("Shutting down", STOP_DEADLINE_S / 3)
                self.popen.send_signal(signal.SIGINT)
                self.popen.wait(STOP_DEADLINE_S / 3)
            deadline = time.monotonic() + ORPHAN_DEADLINE_S
            while (left := marked_processes(self.mark)) and time.monotonic() < deadline:
                wait_all_exited(left, deadline)
            told = "\n".join(describe(pid) for pid in sorted(left))
            assert not left, f"left behind by JupyterLab's end:\n{told}\n{self.log()}"
        finally:
            self.destroy()

    def destroy(self) -> None:
        """End every process that descends from the server, whatever state it is in."""
        for _ in range(20):
            left = marked_processes(self.mark)
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.popen.poll()
            wait_all_exited(left, time.monotonic() + 1)
        self.popen.wait(5)

    def _ask(self, method: str, path: str) -> bytes:
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=STOP_DEADLINE_S) as answer:
            body: bytes = answer.read()
            return body

    def _read_log(self) -> None:
        """Drain the server's output for as long as anybody holds it."""
        assert self.popen.stdout is not None
        with self.popen.stdout as stream:
            for line in stream:
                with self.changed:
                    self.lines.append(line)
                    self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()
