"""Fixtures for the tests that start the kernel through jupyter_client, or several that share promises."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from .jupyter import Installed
from .process import GONE_DEADLINE_S, wait_all_exited
from .promised import Kernels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kernel.starter import KernelStarter


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    found = Installed.into(tmp_path)
    yield found
    deadline = time.monotonic() + GONE_DEADLINE_S
    while (left := found.processes()) and time.monotonic() < deadline:
        wait_all_exited(left, deadline)
    assert found.processes() == set()


@pytest.fixture
def kernels(start_kernel: KernelStarter, tmp_path: Path) -> Kernels:
    return Kernels(start_kernel, tmp_path / "promises.sqlite3")
