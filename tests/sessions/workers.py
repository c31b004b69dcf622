"""What the tests of sessions share: an environment of their own, owners that record, and waits with a deadline."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from capsule_kernel.sessions.process import SpawnedZygote, spawn_zygote
from capsule_kernel.sessions.session import Death, Session
from capsule_kernel.settings import Settings
from capsule_kernel.wire.worker_messages import Done, Execute, FromWorker, Stream, WorkerOptions, ZygoteOptions
from tests.kernel.process import MARK, isolated_environment, marked_processes, wait_all_exited

DEADLINE_S = 20.0
GONE_S = 5.0


@contextmanager
def environment(home: Path) -> Iterator[str]:
    """Have processes that are started inside know nothing of this machine's user, and carry the mark that is given."""
    mark = uuid.uuid4().hex
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(isolated_environment(home) | {MARK: mark})
    try:
        yield mark
    finally:
        os.environ.clear()
        os.environ.update(before)


def assert_gone(mark: str) -> None:
    """Wait until no process carries the mark."""
    deadline = time.monotonic() + GONE_S
    while left := marked_processes(mark):
        wait_all_exited(left, deadline)
        assert time.monotonic() < deadline, f"still there: {left}"


def reap(pid: int) -> None:
    """Take the exit status of a zygote, which is about to end or has ended."""
    os.waitpid(pid, 0)


def start_zygote(*, preload: list[str] | None = None, lines: list[str] | None = None) -> SpawnedZygote:
    """A zygote whose workers run `lines` when they start."""
    arguments = [f"--InteractiveShellApp.exec_lines={lines!r}"] if lines else []
    return spawn_zygote(ZygoteOptions(preload=preload or [], ipython_args=arguments))


def wait_imported(spawned: SpawnedZygote) -> None:
    """Wait until a zygote that nobody listens to yet has said something, which is that it is ready."""
    assert select.select([spawned.control], [], [], DEADLINE_S)[0]
    assert spawned.control.recv(1, socket.MSG_PEEK)


def options(**changes: object) -> WorkerOptions:
    settings = Settings()
    given: dict[str, object] = {
        "cell_prefix": "/cells/",
        "executor_factory": settings.executor_factory,
        "compile_cache_size": settings.compile_cache_size,
        "stream_interval_ms": settings.stream_interval_ms,
        "max_output_bytes": settings.max_output_bytes,
        "session_name": "",
        "kernel_argv": ["test"],
        "connection_file": "",
    }
    return WorkerOptions(**(given | changes))  # type: ignore[arg-type]


def cell(serial: int, code: str) -> Execute:
    return Execute(
        serial=serial,
        code=code,
        silent=False,
        store_history=True,
        allow_stdin=False,
        execution_count=serial,
        user_expressions={},
        parent=b'{"header":{"msg_id":"%d"},"metadata":{},"content":{}}' % serial,
    )


@dataclass
class Recorder:
    """Remembers what it is told, as the owner of sessions, of a pool, and as an interceptor; and waits."""

    messages: list[FromWorker] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    ready: list[Session] = field(default_factory=list)
    deaths: list[tuple[Session, Death]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    seen: list[tuple[str, object]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_message(self, session: Session, message: FromWorker) -> None:  # noqa: ARG002 - SessionOwner's
        self.messages.append(message)
        self._changed.set()

    def on_descriptor_text(self, session: Session, name: str, text: str) -> None:  # noqa: ARG002 - SessionOwner's
        self.texts.append((name, text))
        self._changed.set()

    def on_ready(self, session: Session) -> None:
        self.ready.append(session)
        self._changed.set()

    def on_death(self, session: Session, death: Death) -> None:
        self.deaths.append((session, death))
        self._changed.set()

    on_worker_message = on_message
    on_worker_text = on_descriptor_text
    on_worker_ready = on_ready

    def on_worker_death(self, session: Session, death: Death, heir: Session | None) -> None:  # noqa: ARG002 - PoolOwner's
        self.on_death(session, death)

    def on_no_worker(self, reason: str) -> None:
        self.refusals.append(reason)
        self._changed.set()

    def intercept(self, direction: str, message: object) -> None:
        self.seen.append((direction, message))
        self._changed.set()

    async def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; it is asked again whenever something was recorded."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def run(self, session: Session, serial: int, code: str) -> Done:
        """Run a cell and return its end."""
        session.execute(cell(serial, code))
        await self.wait_until(lambda: self.done(serial) is not None or session in [dead for dead, _ in self.deaths])
        done = self.done(serial)
        assert done is not None, self.deaths
        return done

    def done(self, serial: int) -> Done | None:
        return next((each for each in self.messages if isinstance(each, Done) and each.serial == serial), None)

    def text(self, name: str = "stdout") -> str:
        """All that workers printed through Python."""
        return "".join(each.text for each in self.messages if isinstance(each, Stream) and each.name == name)

    def captured(self, name: str = "stdout") -> str:
        """All that workers wrote to a descriptor."""
        return "".join(text for stream, text in self.texts if stream == name)
