"""State and questions in JupyterLab, as a person sees them: a kernel that dies, and comes back with what it held."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from capsule_kernel import checkpoints, questions
from capsule_kernel.errors import CapsuleError
from tests.kernel.process import marked_processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from .page import LabPage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DEADLINE_S = 60.0


def data(lab: LabPage) -> Path:
    return lab.server.directory / "home" / "share" / "jupyter" / "capsule"


def wait_saved(lab: LabPage, cell: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            found = checkpoints.listing(folder=str(data(lab) / "checkpoints"))
        except CapsuleError:
            found = []
        if any(line.after_cell >= cell for each in found if lab.notebook in each.session for line in each.lines):
            return
        lab.page.wait_for_timeout(100)
    raise AssertionError(lab.server.log())


def kernel_processes(lab: LabPage) -> list[int]:
    found = []
    for pid in marked_processes(lab.server.mark):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"capsule_kernel" in words:
            found.append(pid)
    return found


def wait_restarted(lab: LabPage) -> None:
    """Wait until the new kernel serves: the status bar may still show what it showed of the old one."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        states = [each["kernel"]["execution_state"] for each in lab.server.sessions() if lab.notebook in each["path"]]
        if states == ["idle"] and kernel_processes(lab):
            return
        lab.page.wait_for_timeout(200)
    raise AssertionError(lab.server.log())


def test_what_a_killed_kernel_held_is_offered_and_restored(
    open_notebook: Callable[..., LabPage], tmp_path: Path
) -> None:
    lab = open_notebook("kept = [1]; also = kept", "print('begun')", "%restore", "kept is also, kept", "%checkpoints")
    lab.run(0)
    lab.wait_prompt(0, "1")
    wait_saved(lab, 1)
    for pid in kernel_processes(lab):
        os.kill(pid, signal.SIGKILL)
    # jupyter_server notices within a few seconds, and starts another.
    lab.server.wait_logged("AsyncIOLoopKernelRestarter: restarting kernel", DEADLINE_S)
    lab.page.locator(".jp-Dialog button", has_text="Ok").click()
    wait_restarted(lab)
    lab.wait_connected()
    lab.run(1)
    lab.wait_prompt(1, "1")
    lab.wait_output(1, "%restore brings back the variables as they were after cell [1]")
    lab.wait_output(1, "begun")
    lab.run(2)
    lab.wait_output(2, "2 names restored")
    lab.run(3)
    lab.wait_output(3, "(True, [1])")
    lab.run(4)
    lab.wait_output(4, "after cell")
    lab.screenshot(tmp_path / "restored.png")


def test_a_question_is_answered_from_a_terminal(open_notebook: Callable[..., LabPage], tmp_path: Path) -> None:
    lab = open_notebook("name = input('Who are you? ')\nprint(f'Hello, {name}!')")
    lab.run(0)
    lab.wait_output(0, "Who are you?")
    file = str(data(lab) / "promises.sqlite3")
    (question,) = [each for each in questions.pending(file=file) if lab.notebook in each.session]
    questions.answer(question.id, "Ada", file=file)
    lab.wait_output(0, "Hello, Ada!")
    lab.wait_prompt(0, "1")
    lab.screenshot(tmp_path / "answered.png")
