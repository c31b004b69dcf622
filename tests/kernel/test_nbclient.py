"""Notebooks on nbclient, and each of its ways to end a kernel (issue, section "Tests")."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import v4

from .starter import only_capsule

if TYPE_CHECKING:
    from .jupyter import Installed


def notebook(*cells: str) -> Any:
    return v4.new_notebook(cells=[v4.new_code_cell(code) for code in cells])


def client_of(installed: Installed, *cells: str, **options: Any) -> NotebookClient:
    client = NotebookClient(notebook(*cells), km=installed.async_manager(), startup_timeout=30, **options)
    # As if nbclient had made the manager itself: it ends the kernel.
    client.owns_km = True
    return client


def execute(installed: Installed, client: NotebookClient) -> Any:
    return client.execute(env=installed.environment, cwd=str(installed.directory))


def texts(node: Any, number: int) -> list[str]:
    outputs = node.cells[number].outputs
    return [o.get("text") or o.get("data", {}).get("text/plain") or o.get("ename") for o in outputs]


@pytest.mark.parametrize("ending", ["graceful", "immediate"])
def test_a_notebook_runs_and_its_kernel_ends(ending: str, installed: Installed) -> None:
    cells = ("x = 20", "print('printed')\nx + 22", "await __import__('asyncio').sleep(0, 'awaited')")
    node = execute(installed, client_of(installed, *cells, shutdown_kernel=ending))
    assert texts(node, 1) == ["printed\n", "42"]
    assert texts(node, 2) == ["'awaited'"]
    assert [cell.execution_count for cell in node.cells] == [1, 2, 3]


@only_capsule("ipykernel loses such output in some of its tries")
def test_output_of_children_is_in_the_notebook(installed: Installed) -> None:
    node = execute(installed, client_of(installed, *["import os\n_ = os.system('echo from a child')"] * 20))
    assert [texts(node, number) for number in range(20)] == [["from a child\n"]] * 20


def test_displays_are_updated_across_cells(installed: Installed) -> None:
    cells = (
        "handle = display('old', display_id=True)",
        "handle.update('new')",
        "from IPython.display import clear_output\nprint('a')\nclear_output()\nprint('b')",
    )
    node = execute(installed, client_of(installed, *cells))
    assert texts(node, 0) == ["'new'"]
    assert texts(node, 2) == ["b\n"]


def test_a_plot_and_a_table_are_in_the_notebook(installed: Installed) -> None:
    cells = (
        "%matplotlib inline\nimport matplotlib.pyplot as plt\n_ = plt.plot([1, 2])",
        "import pandas\npandas.DataFrame({'a': [1]})",
    )
    node = execute(installed, client_of(installed, *cells, timeout=50))
    assert base64.b64decode(node.cells[0].outputs[0].data["image/png"]).startswith(b"\x89PNG")
    assert "<table" in node.cells[1].outputs[0].data["text/html"]


def test_an_error_stops_the_notebook(installed: Installed) -> None:
    client = client_of(installed, "1 / 0", "print('never')")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(installed, client)
    assert client.nb.cells[1].outputs == []


def test_allowed_errors_go_on(installed: Installed) -> None:
    node = execute(installed, client_of(installed, "1 / 0", "print('on')", allow_errors=True))
    assert texts(node, 0) == ["ZeroDivisionError"]
    assert texts(node, 1) == ["on\n"]


def test_input_is_an_error(installed: Installed) -> None:
    with pytest.raises(CellExecutionError, match="StdinNotImplementedError"):
        execute(installed, client_of(installed, "input('?')"))


@only_capsule("ipykernel is killed for it")
@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(600)",
        "while True: pass",
        "import asyncio; await asyncio.sleep(600)",
        "import subprocess; subprocess.run(['sleep', '600'])",
    ],
)
def test_a_timeout_interrupts_and_the_notebook_goes_on(code: str, installed: Installed) -> None:
    client = client_of(installed, code, "print('after')", timeout=1, interrupt_on_timeout=True, allow_errors=True)
    node = execute(installed, client)
    assert texts(node, 0)[-1] == "KeyboardInterrupt"
    assert texts(node, 1) == ["after\n"]


@pytest.mark.slow
@only_capsule("ipykernel waits for the loop")
@pytest.mark.parametrize("code", ["import time; time.sleep(600)", "sum(range(10**13))"])
def test_a_timeout_without_interrupt_ends_the_kernel(code: str, installed: Installed) -> None:
    with pytest.raises(CellTimeoutError):
        execute(installed, client_of(installed, code, timeout=1))


@only_capsule("other kernels die")
def test_a_dead_worker_is_an_error_of_the_cell_and_no_dead_kernel(installed: Installed) -> None:
    node = execute(installed, client_of(installed, "import os; os._exit(7)", "print('after')", allow_errors=True))
    assert node.cells[0].outputs[-1].output_type == "error"
    assert "7" in node.cells[0].outputs[-1].evalue
    assert texts(node, 1) == ["after\n"]


@only_capsule("other kernels die")
def test_a_dead_worker_stops_a_notebook_that_stops_at_errors(installed: Installed) -> None:
    with pytest.raises(CellExecutionError):
        execute(installed, client_of(installed, "import os; os._exit(7)", "print('never')"))


def test_exit_in_a_cell_ends_the_kernel_and_leaves_nothing(installed: Installed) -> None:
    client = client_of(installed, "print('before')\nexit()")
    # nbclient may see that the kernel has ended; the fixture sees that nothing is left.
    with contextlib.suppress(DeadKernelError):
        execute(installed, client)
    assert texts(client.nb, 0) == ["before\n"]


def test_a_kernel_is_used_for_two_notebooks(installed: Installed) -> None:
    client = client_of(installed, "x = 1")
    with client.setup_kernel(env=installed.environment):
        client.execute_cell(client.nb.cells[0], 0)
        client.nb.cells.append(v4.new_code_cell("x + 1"))
        client.execute_cell(client.nb.cells[1], 1)
    assert texts(client.nb, 1) == ["2"]


def test_markdown_and_empty_cells_are_skipped(installed: Installed) -> None:
    client = client_of(installed, "", "print(1)")
    client.nb.cells.insert(0, v4.new_markdown_cell("# Title"))
    node = execute(installed, client)
    assert texts(node, 2) == ["1\n"]
