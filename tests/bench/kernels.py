"""The kernels that are compared: how each is started and how a client interrupts it.

All run with every feature at its default. The interrupt mode is the one that the kernel's own kernelspec asks for.
"""

from __future__ import annotations

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
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return "not installed"


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

KERNELS = {kernel.name: kernel for kernel in (CAPSULE, IPYKERNEL, XEUS)}
