"""The kernels that are compared: how each is started and how a client interrupts it.

All run with every feature at its default. The interrupt mode is the one that the kernel's own kernelspec asks for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel's launch command and manners."""

    name: str
    distribution: str
    argv: tuple[str, ...]
    """The launch command; `{connection_file}` is replaced as in a kernelspec."""
    interrupt_mode: Literal["message", "signal"]

    def with_arguments(self, *arguments: str) -> Kernel:
        """The same kernel with more command-line arguments."""
        return replace(self, argv=self.argv + arguments)

    @property
    def version(self) -> str:
        """The installed version, or "not installed"."""
        if self.argv[0] != sys.executable:
            return _version_for(self.argv[0], self.distribution)
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return "not installed"


def _version_for(python: str, distribution: str) -> str:
    code = f"from importlib import metadata; print(metadata.version({distribution!r}))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not installed"
    return done.stdout.strip()


CAPSULE = Kernel(
    name="capsule",
    distribution="capsule-kernel",
    argv=(sys.executable, "-P", "-m", "capsule_kernel", "-f", "{connection_file}"),
    interrupt_mode="message",
)
IPYKERNEL = Kernel(
    name="ipykernel",
    distribution="ipykernel",
    argv=(sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"),
    interrupt_mode="signal",
)
XEUS = Kernel(
    name="xeus",
    distribution="xeus-python",
    argv=(sys.executable, "-m", "xpython_launcher", "-f", "{connection_file}"),
    interrupt_mode="signal",
)

KISHU = Kernel(
    name="kishu",
    distribution="kishu",
    argv=(os.environ.get("CAPSULE_BENCH_KISHU", ""), "-m", "ipykernel_launcher", "-f", "{connection_file}"),
    interrupt_mode="signal",
)
"""ipykernel with Kishu, by an interpreter of its own (see `rows.kishu`): only where it is asked for."""

DEFAULT = (CAPSULE, IPYKERNEL, XEUS)
KERNELS = {kernel.name: kernel for kernel in (*DEFAULT, KISHU)}
