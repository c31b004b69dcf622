"""The kernel under test as jupyter_client and nbclient start it: through a kernelspec, in a home of its own."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager

from .process import MARK, UNDER_TEST, isolated_environment, kernel_command, marked_processes

SPEC = Path(__file__).parents[2] / "kernelspec"
NAME = "under-test"


@dataclass(kw_only=True)
class Installed:
    """A folder of kernelspecs with the one kernel, and what its processes are marked with."""

    directory: Path
    mark: str
    environment: dict[str, str]

    @classmethod
    def into(cls, directory: Path) -> Installed:
        """Install the repository's kernelspec into a folder, as the wheel would."""
        target = directory / "kernels" / NAME
        if UNDER_TEST == "capsule":
            shutil.copytree(SPEC, target)
        else:
            target.mkdir(parents=True)
            spec = {"argv": kernel_command("{connection_file}"), "display_name": UNDER_TEST, "language": "python"}
            (target / "kernel.json").write_text(json.dumps(spec))
        home = directory / "home"
        home.mkdir()
        mark = uuid.uuid4().hex
        return cls(directory=directory, mark=mark, environment=isolated_environment(home) | {MARK: mark})

    def _options(self) -> dict[str, Any]:
        specs = KernelSpecManager(kernel_dirs=[str(self.directory / "kernels")], ensure_native_kernel=False)
        return {
            "kernel_name": NAME,
            "kernel_spec_manager": specs,
            "connection_file": str(self.directory / f"kernel-{uuid.uuid4().hex}.json"),
            "shutdown_wait_time": 5.0,
        }

    def manager(self) -> KernelManager:
        """A blocking manager of the kernel, not started."""
        return KernelManager(**self._options())

    def async_manager(self) -> AsyncKernelManager:
        """An asyncio manager of the kernel, not started."""
        return AsyncKernelManager(**self._options())

    def processes(self) -> set[int]:
        """Every living process of the kernels started from here."""
        return marked_processes(self.mark)
