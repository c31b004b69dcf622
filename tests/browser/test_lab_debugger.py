"""JupyterLab's debugger in a real browser: a breakpoint in the gutter, variables, steps, a worker that dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .page import CELL_DEADLINE_MS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .page import LabPage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FUNCTION = "def double(value):\n    result = value * 2\n    return result"


def switch_debugger(lab: LabPage) -> None:
    """Click the bug in the toolbar, which is there because the kernelspec says so."""
    lab.panel.locator(".jp-DebuggerBugButton").first.click()


def toggle_breakpoint(lab: LabPage, cell: int, line: int) -> None:
    """Click into the gutter beside a line, counted from 1."""
    gutter = lab.cell(cell).locator(".cm-breakpoint-gutter .cm-gutterElement")
    # The first element is the spacer.
    gutter.nth(line).click()
    expect(lab.cell(cell).locator(".cm-breakpoint-icon")).not_to_have_count(0, timeout=CELL_DEADLINE_MS)


def press(lab: LabPage, command: str) -> None:
    """Press a button of the debugger's panel."""
    lab.page.locator(f'#jp-right-stack [data-command="debugger:{command}"]').first.click()


def wait_line(lab: LabPage, text: str) -> None:
    """Wait until the line that is about to run is this one."""
    expect(lab.panel.locator(".jp-DebuggerEditor-highlight")).to_contain_text(text, timeout=CELL_DEADLINE_MS)


def wait_variable(lab: LabPage, name: str, value: str) -> None:
    """Wait until the panel shows a variable."""
    row = lab.page.locator(".jp-DebuggerVariables").get_by_role("treeitem", name=f"{name}: {value}")
    expect(row).to_be_visible(timeout=CELL_DEADLINE_MS)


def test_a_breakpoint_is_set_by_a_click_and_outlives_the_worker(
    open_notebook: Callable[..., LabPage], tmp_path: Path
) -> None:
    lab = open_notebook(FUNCTION, "double(21)", "import os\nos._exit(3)")
    switch_debugger(lab)
    toggle_breakpoint(lab, 0, 2)
    lab.run(0)
    lab.wait_prompt(0, "1")

    lab.run(1)
    lab.wait_prompt(1, "*")
    wait_line(lab, "result = value * 2")
    wait_variable(lab, "value", "21")
    lab.screenshot(tmp_path / "stopped.png")
    press(lab, "next")
    wait_line(lab, "return result")
    wait_variable(lab, "result", "42")
    press(lab, "continue")
    lab.wait_prompt(1, "2")
    lab.wait_output(1, "42")

    lab.run(2)
    lab.wait_output(2, "WorkerDied")
    lab.run(0)
    lab.wait_prompt(0, "4")
    lab.run(1)
    wait_line(lab, "result = value * 2")
    lab.screenshot(tmp_path / "again.png")
    press(lab, "continue")
    lab.wait_prompt(1, "5")
    lab.assert_kernel_never_died()
