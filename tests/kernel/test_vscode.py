"""VS Code's Jupyter extension, by what it sends: its start, its hidden cells, completions, viewers and its way to kill.

Facts: the extension's sources of 2026. It asks for the kernel's info on two channels at once and hangs up early, runs
hidden cells for all that it wants to know, and never sends a shutdown_request.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from .message import pack, unpack
from .process import connection_info
from .starter import only_capsule

if TYPE_CHECKING:
    from .client import Client
    from .exchange import Cell
    from .process import KernelProcess
    from .starter import KernelStarter

ENVIRONMENT = {"PYDEVD_IPYTHON_COMPATIBLE_DEBUGGING": "1", "PYTHONNOUSERSITE": "True"}
JEDI_S = 40.0
"""A first completion in a new home parses the standard library's types, for seconds where others are busy too."""
RESULT = "application/vnd.vscode.bg.execution.1.result"
ERROR = "application/vnd.vscode.bg.execution.1.error"
BACKGROUND = f'''
def __vsc_in_background(work):
    """As the extension does: a thread, and a display that it fills once the hidden cell is over."""
    import threading
    from IPython.display import display
    shown = display({{"application/vnd.vscode.bg.execution.1": ""}}, raw=True, display_id=True)
    def run():
        try:
            shown.update({{"{RESULT}": work()}}, raw=True)
        except Exception as exc:
            shown.update({{"{ERROR}": str(exc)}}, raw=True)
    threading.Thread(target=run, daemon=True).start()
'''


def hidden(client: Client, code: str, **kw: Any) -> Cell:
    """A cell that the user does not see."""
    return client.start(code, store_history=False, allow_stdin=True, stop_on_error=False, **kw)


def wait_background(cell: Cell, mime: str = RESULT) -> Any:
    """The value that a hidden cell's thread shows, whenever it comes."""

    def updates() -> list[Any]:
        found = [m for m in (*cell.iopub, *cell.late) if m.msg_type == "update_display_data"]
        cell.claimed.update(id(message) for message in found)
        return found

    cell.client.wait_until(lambda: bool(updates()), f"update of {cell!r}", JEDI_S)
    (message,) = updates()
    first = next(m for m in cell.claim("display_data"))
    assert message.content["transient"] == first.content["transient"]
    return message.content["data"][mime]


# --- its start -------------------------------------------------------------------------------------------------------


def nudge(process: KernelProcess, channel: str, key: bytes) -> zmq.Socket[bytes]:
    """A connection of its own that asks for the kernel's info; the caller hangs up."""
    dealer = zmq.Context.instance().socket(zmq.DEALER)
    dealer.linger = 0
    dealer.identity = f"nudge-{channel}-{os.urandom(4).hex()}".encode()
    dealer.connect(process.address(channel))
    header = {
        "msg_id": os.urandom(8).hex(),
        "session": dealer.identity.decode(),
        "username": "vscode",
        "date": "2026-11-01T00:00:00.000Z",
        "msg_type": "kernel_info_request",
        "version": "5.2",
    }
    dealer.send_multipart(pack(key, [json.dumps(part).encode() for part in (header, {}, {}, {})]))
    return dealer


def test_it_starts_under_nudges_that_hang_up(start_kernel: KernelStarter) -> None:
    process = start_kernel.process(env=ENVIRONMENT)
    key = str(process.info["key"]).encode()
    for _ in range(5):
        # Some of these are gone before the kernel listens, some in the middle of the answer.
        for channel in ("control", "shell"):
            nudge(process, channel, key).close(0)
    asked = {channel: nudge(process, channel, key) for channel in ("control", "shell")}
    for channel, dealer in asked.items():
        assert dealer.poll(20_000), f"no kernel_info_reply on {channel}"
        reply = unpack(channel, key, dealer.recv_multipart())
        assert reply.msg_type == "kernel_info_reply"
        assert reply.content["language_info"]["name"] == "python"
        dealer.close(0)
    for _ in range(20):
        for channel in ("control", "shell"):
            nudge(process, channel, key).close(0)
    client = start_kernel.connect(process)
    assert client.run("1 + 1").text == "2"


def test_its_first_hidden_cells_run_and_leave_no_count(start_kernel: KernelStarter) -> None:
    client = start_kernel(env=ENVIRONMENT)
    probe = "import ipywidgets as _VSCODE_ipywidgets; print(_VSCODE_ipywidgets.__version__); del _VSCODE_ipywidgets"
    assert hidden(client, probe).succeeded().stdout.startswith("8.")
    for code in (
        "__vsc_ipynb_file__ = '/home/somebody/notebook.ipynb'",
        "%config Completer.use_jedi = False",
        "import sys, types; sys.modules['vscode'] = types.ModuleType('vscode'); del sys, types",
        "import os as _VSCODE_os; _VSCODE_os.chdir('.'); del _VSCODE_os",
        "%matplotlib inline\nimport matplotlib as _VSCODE_m; _VSCODE_m.rcParams['figure.facecolor']; del _VSCODE_m",
    ):
        hidden(client, code).succeeded().claim("execute_result")
    assert client.evaluate("__vsc_ipynb_file__") == "'/home/somebody/notebook.ipynb'"
    assert client.evaluate("get_ipython().Completer.use_jedi") == "False"
    uri = {"cellId": "vscode-notebook-cell:/home/somebody/notebook.ipynb#W0sZmlsZQ%3D%3D"}
    cell = client.run("1 + 1", allow_stdin=True, stop_on_error=False, metadata=uri)
    assert (cell.text, cell.execution_count) == ("2", 1)


def test_a_hook_around_run_cell_is_called_for_cells(kernel: Client) -> None:
    """The interactive window's; whatever wraps `run_cell` is called with ipykernel for all cells that do not await."""
    hidden(
        kernel,
        "seen = []\n"
        "def wrap(original):\n"
        "    def run_cell(*args, **kwargs):\n"
        "        seen.append(args[0])\n"
        "        return original(*args, **kwargs)\n"
        "    return run_cell\n"
        "get_ipython().run_cell = wrap(get_ipython().run_cell)\n"
        "ends = []\n"
        "get_ipython().events.register('post_run_cell', lambda result: ends.append(result.info.raw_cell))",
    ).succeeded()
    assert kernel.run("1 + 1").text == "2"
    failed = kernel.execute("1 / 0", stop_on_error=False)
    assert failed.ename == "ZeroDivisionError"
    assert "Cell In[2], line 1" in failed.traceback
    assert "run_cell" not in failed.traceback
    kernel.run("import asyncio\nawait asyncio.sleep(0)")
    assert kernel.run("3 + 4").text == "7"
    assert kernel.run("seen").text == "['1 + 1', '1 / 0', '3 + 4', 'seen']"
    assert kernel.evaluate("ends.count('1 / 0'), ends.count('3 + 4')") == "(1, 1)"


# --- what it asks by hidden cells ------------------------------------------------------------------------------------


def test_completions_come_from_a_thread_of_a_hidden_cell(kernel: Client) -> None:
    kernel.run("import collections\nremarkable_name = collections.OrderedDict(a=1)")
    hidden(kernel, BACKGROUND).succeeded()
    cell = hidden(
        kernel,
        "__vsc_in_background(lambda: get_ipython().kernel.do_complete('remarkable_name.move', 20))",
    ).succeeded()
    reply = wait_background(cell)
    assert reply["status"] == "ok"
    assert [match.rpartition(".")[2] for match in reply["matches"]] == ["move_to_end"]
    assert reply["cursor_end"] == 20
    (known,) = reply["metadata"]["_jupyter_types_experimental"]
    assert known["text"] == reply["matches"][0]
    cell = hidden(
        kernel,
        "__vsc_in_background(lambda: get_ipython().kernel.do_inspect('remarkable_name.move_to_end', 27, 0))",
    ).succeeded()
    reply = wait_background(cell)
    assert reply["found"] is True
    assert "Move an existing element to the end" in reply["data"]["text/plain"]


def test_completions_and_inspections_are_plain_values_in_a_cell_too(kernel: Client) -> None:
    kernel.run("remarkable_name = 1")
    code = "reply = get_ipython().kernel.do_complete('remarka', 7)\nassert isinstance(reply, dict), reply"
    kernel.run(code, timeout_s=JEDI_S)
    assert kernel.evaluate("reply['matches']") == "['remarkable_name']"
    kernel.run("reply = get_ipython().kernel.do_inspect('len', 3, 1)\nassert isinstance(reply, dict), reply")
    assert kernel.evaluate("reply['found']") == "True"


def test_what_a_thread_raises_is_shown_in_its_display(kernel: Client) -> None:
    hidden(kernel, BACKGROUND).succeeded()
    cell = hidden(kernel, "__vsc_in_background(lambda: 1 / 0)").succeeded()
    assert wait_background(cell, ERROR) == "division by zero"


def test_the_variable_viewer_is_answered_after_idle_while_another_cell_runs(kernel: Client) -> None:
    """Its update belongs to the hidden cell, not to the one that runs by then."""
    kernel.run("import threading\ngate = threading.Event()\nshown_variable = [1, 2, 3]")
    hidden(kernel, BACKGROUND).succeeded()
    code = (
        "def __vsc_variables():\n"
        "    gate.wait()\n"
        "    names = [n for n in globals() if n.startswith('shown_')]\n"
        "    return [dict(name=n, type=type(globals()[n]).__name__, count=len(globals()[n])) for n in names]\n"
        "__vsc_in_background(__vsc_variables)"
    )
    cell = hidden(kernel, code).succeeded()
    assert cell.idle is not None
    busy = kernel.start("gate.set()\nprint('running', flush=True)\nimport time\nwhile True: time.sleep(0.01)")
    busy.wait_stream("running\n")
    assert wait_background(cell) == [{"name": "shown_variable", "type": "list", "count": 3}]
    assert not busy.is_done
    kernel.interrupt()
    assert busy.ename == "KeyboardInterrupt"


def test_the_data_viewer_gets_its_json_whole(kernel: Client) -> None:
    code = "import json\nprint(json.dumps([{'index': n, 'text': 'é' * 20} for n in range(20_000)]))"
    cell = hidden(kernel, code).succeeded()
    assert len(json.loads(cell.stdout)) == 20_000


def test_a_window_that_reloads_sees_the_cell_end_before_what_it_asks_next(kernel: Client) -> None:
    """It infers a cell's end from the reply to what it has queued behind that."""
    cell = kernel.start("print('running', flush=True)\nimport time; time.sleep(0.2)")
    behind = hidden(kernel, "pass")
    behind.succeeded()
    assert cell.succeeded().is_done
    assert cell.stdout == "running\n"
    assert cell.idle is not None
    assert behind.busy is not None
    assert cell.idle.date <= behind.busy.date


# --- its interrupt and its kill --------------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """Processes below a process, as a tool that walks the tree of parents finds them; deepest last."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time; time.sleep(600)", "import asyncio; await asyncio.sleep(600)"]
)
def test_an_interrupt_of_the_whole_tree_is_one_interrupt(code: str, kernel: Client) -> None:
    """Where the kernelspec is not asked, each descendant gets a SIGINT, and then the kernel."""
    kernel.run("kept = 'still here'")
    cell = kernel.start(f"print('running', flush=True)\n{code}", stop_on_error=False)
    cell.wait_stream("running\n")
    send([*descendants(kernel.process.pid), kernel.process.pid], signal.SIGINT)
    assert cell.ename == "KeyboardInterrupt"
    for _ in range(20):
        assert kernel.run("kept", stop_on_error=False).text == "'still here'"


@only_capsule("what is killed has to leave nothing behind")
def test_its_kill_of_the_tree_leaves_nothing(kernel: Client) -> None:
    kernel.run("import subprocess\nchild = subprocess.Popen(['sleep', '600'])")
    cell = kernel.start("print('running', flush=True)\nwhile True: pass")
    cell.wait_stream("running\n")
    tree = descendants(kernel.process.pid)
    assert len(tree) >= 3
    send(tree, signal.SIGTERM)
    send([kernel.process.pid], signal.SIGTERM)
    kernel.process.wait_exit()
    kernel.abandon()
    kernel.process.wait_gone()


@only_capsule("checkpoints")
def test_after_a_kill_the_next_kernel_has_what_was_saved(start_kernel: KernelStarter) -> None:
    """No shutdown_request, a new connection file, new ports: what lasts is on disk by then."""
    store = {"CAPSULE_CHECKPOINTS": str(start_kernel.directory / "store")}
    first = start_kernel(env=ENVIRONMENT | store)
    hidden(first, "__vsc_ipynb_file__ = '/home/somebody/notebook.ipynb'").succeeded()
    first.run("kept = {'a': [1, 2]}")
    first.run("%checkpoint").ignore_outputs()
    tree = descendants(first.process.pid)
    send(tree, signal.SIGKILL)
    first.process.send_signal(signal.SIGTERM)
    first.process.wait_exit()
    first.abandon()
    first.process.wait_gone()
    directory = start_kernel.directory / "again"
    second = start_kernel(env=ENVIRONMENT | store, info=connection_info(directory))
    hidden(second, "__vsc_ipynb_file__ = '/home/somebody/notebook.ipynb'").succeeded()
    second.run("%restore", timeout_s=30).ignore_outputs()
    assert second.evaluate("kept") == "{'a': [1, 2]}"
