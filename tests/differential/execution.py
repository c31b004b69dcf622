"""Runs a notebook on a kernel in a folder of its own, with nbclient, and says what came out and how long it took."""

from __future__ import annotations

import asyncio
import copy
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import ValidationError

if TYPE_CHECKING:
    from nbformat import NotebookNode

CELL_TIMEOUT_S = 60

ARGUMENTS = {
    "ipykernel": ("-m", "ipykernel_launcher"),
    "capsule": ("-P", "-m", "capsule_kernel"),
}
"""How each kernel is started."""


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """A notebook's run.

    Attributes:
        outputs: of every code cell, in the notebook format.
        seconds: wall time from the kernel's start to its end.
        folder: where it ran, for masking.
        failure: why the run ended before its last cell; empty when it did not.
    """

    outputs: list[list[dict[str, Any]]]
    seconds: float
    folder: str
    failure: str = ""


class _Manager(AsyncKernelManager):
    """Starts a kernel by its command, whatever kernelspecs are installed."""

    command: tuple[str, ...]

    @property
    def kernel_spec(self) -> KernelSpec:
        """A spec with this interpreter."""
        argv = [sys.executable, *self.command, "-f", "{connection_file}"]
        mode = "message" if "capsule_kernel" in self.command else "signal"
        return KernelSpec(argv=argv, display_name="under comparison", language="python", interrupt_mode=mode)


async def execute(notebook: NotebookNode, kernel: str) -> Executed:
    """Run all cells, failing ones included, on `ipykernel` or `capsule`."""
    notebook = copy.deepcopy(notebook)
    with tempfile.TemporaryDirectory(prefix="differential-") as folder:
        # Names of the same length for all: some outputs are cut to a width.
        work = Path(folder, "notebook")
        await asyncio.to_thread(work.mkdir)
        environment = {
            # ipykernel captures no descriptors where it finds pytest's variable.
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "IPYTHONDIR": f"{folder}/ipython",
            "JUPYTER_RUNTIME_DIR": f"{folder}/runtime",
            # The order of sets shows in some outputs.
            "PYTHONHASHSEED": "0",
        }
        manager = _Manager()
        manager.command = ARGUMENTS[kernel]
        client = NotebookClient(
            notebook, km=manager, timeout=CELL_TIMEOUT_S, startup_timeout=60, allow_errors=True, coalesce_streams=False
        )
        client.owns_km = True
        failure = ""
        begun = time.perf_counter()
        try:
            await client.async_execute(env=environment, cwd=str(work))
        except (DeadKernelError, CellTimeoutError, RuntimeError, ValidationError) as exc:
            failure = f"{type(exc).__name__}: {str(exc).partition(chr(10))[0]}"
        seconds = time.perf_counter() - begun
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return Executed(outputs=outputs, seconds=seconds, folder=folder, failure=failure)
