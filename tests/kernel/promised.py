"""Kernels that share a file of promises, and what can be seen of it from outside."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capsule_kernel import questions
from capsule_kernel.clock import Clock
from capsule_kernel.promises.rules import settlement
from capsule_kernel.promises.store import Store

from .exchange import DEADLINE_S

if TYPE_CHECKING:
    from capsule_kernel.promises.model import Settlement
    from tests.kernel.client import Client
    from tests.kernel.starter import KernelStarter


class Kernels:
    """Kernels that share one file of promises."""

    def __init__(self, start_kernel: KernelStarter, file: Path) -> None:
        self._start = start_kernel
        self.file = str(file)

    def __call__(self, *args: str, **kw: Any) -> Client:
        return self._start("--debug", f"--CapsuleKernel.promises_file={self.file}", *args, **kw)

    def promises(self, **search: Any) -> list[Any]:
        if not Path(self.file).exists():
            return []
        store = Store(self.file, Clock())
        try:
            return list(store.search(**search))
        finally:
            store.close()

    def settle(self, promise_id: str, state: Settlement, data: bytes) -> None:
        """Settle a promise as any client of the protocol may, with whatever data."""
        store = Store(self.file, Clock())
        try:
            store.apply([settlement(state, promise_id, json.dumps({"data": base64.b64encode(data).decode()}))])
        finally:
            store.close()

    def wait_for(self, kernel: Client, count: int, **search: Any) -> list[Any]:
        deadline = time.monotonic() + DEADLINE_S
        while len(found := self.promises(**search)) < count:
            assert time.monotonic() < deadline, f"{len(found)} promises of {search}: {kernel.process.log()}"
            kernel.pass_time(0.02)
        return found

    def question(self, kernel: Client) -> questions.Question:
        (promise,) = self.wait_for(kernel, 1, state="pending", kind="input")
        found = [question for question in questions.pending(file=self.file) if question.id == promise.id]
        return found[0]


def command(kernels: Kernels, *args: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-c", "import sys; from capsule_kernel.cli import main; sys.exit(main())"),
            *(*args, "--file", kernels.file),
        ],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
