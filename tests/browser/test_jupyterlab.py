"""JupyterLab in a real browser: what a person sees of the kernel (issue, section "Tests").

The pictures that the tests take are in their temporary folders (`--basetemp` chooses where those are).
"""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .page import LabPage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PLOT = """\
import matplotlib.pyplot as plt
figure, axes = plt.subplots(figsize=(4, 2))
axes.plot([1, 4, 2, 3])
axes.set_title("A plot")
plt.show()"""
TABLE = """\
import pandas as pd
pd.DataFrame({"fruit": ["apple", "pear"], "kg": [120, 80]})"""
ERROR = """\
def divide(a):
    return a / 0
divide(1)"""
ASK = """\
name = input("Who are you? ")
print(f"Hello, {name}!")"""
LOOP = """\
print("round and round")
while True:
    pass"""
WIDGETS = """\
import ipywidgets
slider = ipywidgets.IntSlider(value=6, max=10)
button = ipywidgets.Button(description="press")
output = ipywidgets.Output()
@button.on_click
def pressed(_):
    with output:
        print("pressed at", slider.value)
ipywidgets.VBox([slider, button, output])"""
FLOOD_DEADLINE_MS = 120_000.0
WAIT_FOR_DEATH = """\
import os, time
print("worker", os.getpid(), flush=True)
time.sleep(60)"""
DIE = """\
import os
os._exit(1)"""


def test_a_notebook_runs_with_all_that_a_person_does_to_it(
    open_notebook: Callable[..., LabPage], tmp_path: Path
) -> None:
    lab = open_notebook(PLOT, TABLE, ERROR, ASK, LOOP, "'name' in globals()", DIE, "print('alive')\n6 * 7")
    kernel_id = lab.kernel_id()

    lab.run(0)
    lab.wait_prompt(0, "1")
    picture = lab.output(0).locator('.jp-RenderedImage img[src^="data:image/png;base64,"]')
    assert picture.count() == 1
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 200

    lab.run(1)
    lab.wait_prompt(1, "2")
    table = lab.output(1).locator("table.dataframe")
    assert table.locator("thead th").all_inner_texts() == ["", "fruit", "kg"]
    assert table.locator("tbody tr").all_inner_texts() == ["0\tapple\t120", "1\tpear\t80"]

    lab.run(2)
    lab.wait_prompt(2, "3")
    for text in ("ZeroDivisionError", "Cell In[3], line 3", "Cell In[3], line 2", "return a / 0", "division by zero"):
        lab.wait_output(2, text)

    lab.run(3)
    field = lab.output(3).locator("input.jp-Stdin-input")
    lab.wait_output(3, "Who are you?")
    field.fill("Ada")
    field.press("Enter")
    lab.wait_prompt(3, "4")
    lab.wait_output(3, "Who are you?  Ada")
    lab.wait_output(3, "Hello, Ada!")

    lab.run(4)
    lab.wait_output(4, "round and round")
    lab.wait_prompt(4, "*")
    lab.wait_kernel("busy")
    lab.interrupt()
    lab.wait_prompt(4, "5")
    lab.wait_kernel("idle")
    for text in ("KeyboardInterrupt", "Cell In[5], line"):
        lab.wait_output(4, text)
    lab.screenshot(tmp_path / "before_restart.png")

    lab.restart()
    lab.run(5)
    lab.wait_prompt(5, "1")
    lab.wait_output(5, "False")

    lab.run(6)
    lab.wait_prompt(6, "2")
    lab.wait_kernel("idle")
    lab.run(7)
    lab.wait_prompt(7, "3")
    lab.wait_output(7, "alive")
    lab.wait_output(7, "42")
    lab.wait_kernel("idle")
    lab.screenshot(tmp_path / "after_death.png")

    assert lab.kernel_id() == kernel_id
    lab.assert_kernel_never_died()

    saved = lab.saved()
    assert [cell.execution_count for cell in saved.cells[:8]] == [1, 2, 3, 4, 5, 1, 2, 3]
    # Without the notice after the restart: that the state of the run before can be restored, if it was saved in time.
    assert [
        [out.output_type for out in cell.outputs if number != 5 or "%restore" not in str(out)]
        for number, cell in enumerate(saved.cells[:8])
    ] == [
        ["display_data"],
        ["execute_result"],
        ["error"],
        ["stream", "stream"],
        ["stream", "error"],
        ["execute_result"],
        ["error"],
        ["stream", "execute_result"],
    ]


def test_run_all_stops_at_an_error_and_the_cells_behind_it_do_not_run(open_notebook: Callable[..., LabPage]) -> None:
    lab = open_notebook("import asyncio\nawait asyncio.sleep(0.1)\n'ran'", "1 / 0", "'never'", "'never'")
    lab.menu("Run", "Run All Cells")
    lab.wait_prompt(1, "2")
    lab.wait_output(0, "ran")
    for number in (2, 3):
        lab.wait_prompt(number, " ")
        assert lab.output(number).inner_text() == ""
    lab.run(3)
    lab.wait_prompt(3, "3")
    lab.wait_output(3, "never")
    lab.assert_kernel_never_died()


def test_run_all_goes_on_behind_a_dead_worker_when_it_is_run_again(open_notebook: Callable[..., LabPage]) -> None:
    lab = open_notebook("x = 1", WAIT_FOR_DEATH, "'x' in globals()")
    lab.menu("Run", "Run All Cells")
    lab.wait_output(1, re.compile(r"worker \d+"))
    # Only what is queued when a worker dies is aborted: the third cell has to be.
    lab.wait_prompt(2, "*")
    worker = re.search(r"worker (\d+)", lab.output(1).inner_text())
    assert worker is not None
    os.kill(int(worker[1]), signal.SIGKILL)
    lab.wait_prompt(1, "2")
    lab.wait_prompt(2, " ")
    lab.run(2)
    lab.wait_prompt(2, "3")
    # Whether there was a moment to take a snapshot of `x` is the machine's to say; what is said of it has to be true.
    is_live = "state after cell [1] is live again" in lab.output(1).inner_text()
    lab.wait_output(2, "True" if is_live else "False")
    lab.assert_kernel_never_died()


def test_restart_and_run_all_starts_from_one(open_notebook: Callable[..., LabPage]) -> None:
    lab = open_notebook("seen = globals().get('seen', 0) + 1\nseen", "seen * 10")
    lab.run(0)
    lab.wait_prompt(0, "1")
    lab.run(0)
    lab.wait_prompt(0, "2")
    lab.wait_output(0, "2")
    lab.restart("restart-run-all")
    lab.wait_prompt(1, "2")
    lab.wait_prompt(0, "1")
    assert lab.output(1).locator("pre").inner_text() == "10"
    lab.assert_kernel_never_died()


def test_a_restart_takes_the_kernel_out_of_an_endless_loop(open_notebook: Callable[..., LabPage]) -> None:
    lab = open_notebook(LOOP, "'fresh'")
    lab.run(0)
    lab.wait_output(0, "round and round")
    lab.restart()
    lab.run(1)
    lab.wait_prompt(1, "1")
    lab.wait_output(1, "fresh")
    lab.assert_kernel_never_died()


def test_waiting_for_an_answer_is_interrupted_and_a_late_answer_is_nobodys(
    open_notebook: Callable[..., LabPage],
) -> None:
    lab = open_notebook("input('Well? ')", "input('And now? ')")
    lab.run(0)
    field = lab.output(0).locator("input.jp-Stdin-input")
    field.wait_for()
    lab.interrupt()
    lab.wait_prompt(0, "1")
    lab.wait_output(0, "KeyboardInterrupt")
    # JupyterLab leaves the field of the cell that was interrupted open, and sends what is typed there.
    field.fill("late")
    field.press("Enter")
    lab.run(1)
    field = lab.output(1).locator("input.jp-Stdin-input")
    field.fill("right")
    field.press("Enter")
    lab.wait_prompt(1, "2")
    lab.wait_output(1, "'right'")
    lab.assert_kernel_never_died()


def test_a_password_is_asked_for_with_dots(open_notebook: Callable[..., LabPage]) -> None:
    lab = open_notebook("import getpass\nlen(getpass.getpass('Secret: '))")
    lab.run(0)
    field = lab.output(0).locator("input.jp-Stdin-input")
    field.wait_for()
    assert field.get_attribute("type") == "password"
    field.fill("swordfish")
    field.press("Enter")
    lab.wait_prompt(0, "1")
    lab.wait_output(0, "9")
    assert "swordfish" not in lab.output(0).inner_text()


def test_names_are_completed_and_explained_while_a_cell_runs(
    open_notebook: Callable[..., LabPage], tmp_path: Path
) -> None:
    lab = open_notebook("import math, time\nmathematics = math\nprint('asleep')\ntime.sleep(300)", "")
    lab.run(0)
    lab.wait_output(0, "asleep")
    lab.write(1, "mathematics.facto")
    lab.page.keyboard.press("Tab")
    lab.wait_completions("factorial")
    lab.page.keyboard.press("Enter")
    lab.wait_source(1, "mathematics.factorial")
    lab.page.keyboard.press("Shift+Tab")
    lab.wait_tooltip("Find n!")
    lab.write(1, "mathematics.is")
    lab.page.keyboard.press("Tab")
    lab.wait_completions("isclose", "isfinite", "isinf", "isnan", "isqrt")
    lab.screenshot(tmp_path / "completions.png")
    lab.page.keyboard.press("Escape")
    lab.wait_prompt(0, "*")
    lab.interrupt()
    lab.wait_output(0, "KeyboardInterrupt")
    lab.assert_kernel_never_died()


def test_a_reloaded_page_finds_its_kernel_and_its_variables(open_notebook: Callable[..., LabPage]) -> None:
    lab = open_notebook("x = 41", "x + 1")
    kernel_id = lab.kernel_id()
    lab.run(0)
    lab.wait_prompt(0, "1")
    lab.save()
    lab.reload()
    assert lab.kernel_id() == kernel_id
    lab.run(1)
    lab.wait_prompt(1, "2")
    lab.wait_output(1, "42")
    lab.assert_kernel_never_died()


def test_widgets_answer_when_idle_and_while_a_cell_awaits_and_come_back_with_the_page(
    open_notebook: Callable[..., LabPage], tmp_path: Path
) -> None:
    lab = open_notebook(WIDGETS, "import asyncio\nwhile slider.value < 8:\n    await asyncio.sleep(0.01)\n'reached'")
    lab.run(0)
    lab.wait_prompt(0, "1")
    button = lab.output(0).locator("button.jupyter-button")
    handle = lab.output(0).locator(".noUi-handle")
    button.click()
    lab.wait_output(0, "pressed at 6")
    handle.press("ArrowRight")
    button.click()
    lab.wait_output(0, "pressed at 7")
    lab.run(1)
    lab.wait_prompt(1, "*")
    button.click()
    lab.wait_output(0, re.compile("(pressed at 7.*){2}", re.DOTALL))
    lab.wait_prompt(1, "*")
    handle.press("ArrowRight")
    lab.wait_prompt(1, "2")
    lab.wait_output(1, "reached")
    lab.save()
    lab.reload()
    button.click()
    lab.wait_output(0, "pressed at 8")
    lab.screenshot(tmp_path / "widgets.png")
    lab.assert_kernel_never_died()


def test_displays_are_updated_and_cleared(open_notebook: Callable[..., LabPage]) -> None:
    lab = open_notebook(
        "from IPython.display import HTML, clear_output, display\nold = display(HTML('<b>old</b>'), display_id=True)",
        "old.update(HTML('<b>new</b>'))\nprint('gone')\nclear_output(wait=True)\nprint('stays')",
    )
    lab.run(0)
    lab.wait_output(0, "old")
    lab.run(1)
    lab.wait_prompt(1, "2")
    lab.wait_output(0, "new")
    lab.wait_output(1, "stays")
    assert lab.output(1).inner_text().strip() == "stays"


def test_a_hundred_thousand_lines_pass_the_servers_rate_limits(open_notebook: Callable[..., LabPage]) -> None:
    lab = open_notebook("for i in range(100_000):\n    print(i)", "'next'")
    lab.run(0)
    lab.wait_prompt(0, "1", FLOOD_DEADLINE_MS)
    lab.run(1)
    lab.wait_prompt(1, "2", FLOOD_DEADLINE_MS)
    [output] = lab.saved().cells[0].outputs
    assert output.name == "stdout"
    assert output.text.split("\n") == [*map(str, range(100_000)), ""]
    lab.assert_nothing_was_dropped()
    lab.assert_kernel_never_died()


def test_two_thousand_displays_pass_the_servers_rate_limits(open_notebook: Callable[..., LabPage]) -> None:
    lab = open_notebook("from IPython.display import display\nfor i in range(2_000):\n    display(i)", "'next'")
    lab.run(0)
    lab.wait_prompt(0, "1", FLOOD_DEADLINE_MS)
    lab.run(1)
    lab.wait_prompt(1, "2", FLOOD_DEADLINE_MS)
    outputs = lab.saved().cells[0].outputs
    assert [output.data["text/plain"] for output in outputs] == [*map(str, range(2_000))]
    lab.assert_nothing_was_dropped()
    lab.assert_kernel_never_died()


def test_a_code_console_runs_continues_and_remembers(open_notebook: Callable[..., LabPage], tmp_path: Path) -> None:
    lab = open_notebook("x = 20")
    lab.run(0)
    lab.wait_prompt(0, "1")
    console = lab.open_console()
    console.wait_shown("Capsule ")
    console.type("x * 2")
    console.press("Enter")
    console.wait_prompts("2")
    console.wait_shown("40")
    # `history_request`: the console knows what the notebook ran.
    console.press("ArrowUp")
    console.wait_lines("x * 2")
    console.press("ArrowUp")
    console.wait_lines("x = 20")
    console.press("Control+a")
    console.press("Delete")
    # `is_complete_request`: Enter opens a second line, indented, and runs the loop only behind an empty one.
    console.type("for i in 'ab':")
    console.press("Enter")
    console.wait_lines("for i in 'ab':", "    ")
    console.type("print(i * x)")
    console.press("Enter")
    console.wait_lines("for i in 'ab':", "    print(i * x)", "    ")
    console.press("Enter")
    console.wait_prompts("2", "3")
    console.wait_shown("b" * 20)
    lab.screenshot(tmp_path / "console.png")
    lab.assert_kernel_never_died()
