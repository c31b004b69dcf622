"""A real Resonate server, from a binary that the environment names; bound to loopback, with nothing else open."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.process import free_ports

VARIABLE = "CAPSULE_RESONATE_SERVER"


def server_binary() -> str:
    path = os.environ.get(VARIABLE, "")
    if not path:
        pytest.skip(f"{VARIABLE} names no Resonate server's binary (v0.9.8): it is in no package registry")
    return path


@contextlib.contextmanager
def running_server(folder: Path, *arguments: str, port: int = 0) -> Iterator[str]:
    """Run a server; yields its URL."""
    port = port or free_ports(1)[0]
    process = start_server(folder, port, *arguments)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(10)


def start_server(folder: Path, port: int, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a server and wait until it answers."""
    command = [server_binary(), "serve", "--level", "warn", "--server-bind", "127.0.0.1", "--server-port", str(port)]
    command += ["--observability-metrics-port", "0", "--transports-http-push-enabled", "false"]
    command += ["--storage-sqlite-path", str(folder / "resonate.db"), *arguments]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return process
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait(10)
                raise
            time.sleep(0.02)
