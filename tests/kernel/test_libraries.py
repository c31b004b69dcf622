"""Libraries that look into the kernel or bring loops of their own, and the magics that talk.

Issue: the shell that libraries sniff. What needs only a cell and its output is among the compared notebooks
(`tests/differential/notebooks/`); here is what needs a client that answers, clicks, or comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .starter import only_capsule
from .test_widgets import IMPORT_S, models, set_state, start_widgets

if TYPE_CHECKING:
    from .client import Client
    from .exchange import Exchange
    from .starter import KernelStarter

# --- jupyter_ui_poll -------------------------------------------------------------------------------------------------

BUTTON = (
    "import time\n"
    "from jupyter_ui_poll import run_ui_poll_loop, ui_events, with_ui_events\n"
    "clicks = []\n"
    "button = w.Button()\n"
    "slider = w.IntSlider(max=10)\n"
    "button.on_click(lambda _: (clicks.append(slider.value), print('clicked', flush=True)))\n"
    "button"
)
LOOPS = {
    "with": (
        "print('running', flush=True)\n"
        "with ui_events() as poll:\n"
        "    while len(clicks) < 2:\n"
        "        poll(10)\n"
        "        time.sleep(0.002)"
    ),
    "async with": (
        "print('running', flush=True)\n"
        "async with ui_events() as poll:\n"
        "    while len(clicks) < 2:\n"
        "        await poll(10)\n"
        "        time.sleep(0.002)"
    ),
    "with_ui_events": (
        "print('running', flush=True)\n"
        "for _ in with_ui_events(iter(lambda: time.sleep(0.002), 1), 10):\n"
        "    if len(clicks) == 2: break"
    ),
    "async with_ui_events": (
        "print('running', flush=True)\n"
        "async for _ in with_ui_events(iter(lambda: time.sleep(0.002), 1), 10):\n"
        "    if len(clicks) == 2: break"
    ),
    "run_ui_poll_loop": (
        "print('running', flush=True)\nrun_ui_poll_loop(lambda: True if len(clicks) == 2 else None, 0.002);"
    ),
}


def click(kernel: Client, button: str) -> Exchange:
    data = {"method": "custom", "content": {"event": "click"}}
    return kernel.request("comm_msg", {"comm_id": button, "data": data}, expects_reply=False)


@only_capsule("ipykernel 7 has no do_one_iteration")
@pytest.mark.parametrize("loop", LOOPS)
def test_widgets_answer_while_a_cell_polls(loop: str, kernel: Client) -> None:
    ids = start_widgets(kernel, BUTTON)
    cell = kernel.start(LOOPS[loop])
    # Until the cell is over, and neither by this one nor by its messages.
    behind = kernel.start("print('next')")
    cell.wait_stream("running\n")
    clicked = [click(kernel, ids["ButtonModel"]).wait()]
    moved = set_state(kernel, ids["IntSliderModel"], {"value": 7}).wait()
    clicked.append(click(kernel, ids["ButtonModel"]).wait())
    cell.succeeded()
    assert cell.stdout == "running\n"
    assert [each.claim("stream")[0].content["text"] for each in clicked] == ["clicked\n"] * 2
    moved.claim("comm_msg")
    assert behind.succeeded().stdout == "next\n"
    assert behind.busy is not None
    assert cell.idle is not None
    assert cell.idle.date <= behind.busy.date
    assert kernel.evaluate("clicks") == "[0, 7]"
    for each in (cell, behind):
        each.claim("comm_open", "comm_msg")


@only_capsule("ipykernel 7 has no do_one_iteration")
def test_a_cell_that_polls_is_interrupted(kernel: Client) -> None:
    ids = start_widgets(kernel, BUTTON)
    cell = kernel.start("print('running', flush=True)\nwith ui_events() as poll:\n    while True: poll(10)")
    cell.wait_stream("running\n")
    kernel.interrupt()
    assert cell.ename == "KeyboardInterrupt"
    assert cell.stdout == "running\n"
    assert click(kernel, ids["ButtonModel"]).wait().claim("stream")[0].content["text"] == "clicked\n"
    assert kernel.run("len(clicks)").text == "1"


# --- figures that live in the front end ------------------------------------------------------------------------------


def test_an_interactive_figure_is_drawn_and_moved(kernel: Client) -> None:
    cell = kernel.run(
        "%matplotlib widget\n"
        "import matplotlib.pyplot as plt\n"
        "figure, axes = plt.subplots()\n"
        "line, = axes.plot([1, 2, 3])\n"
        "seen = []\n"
        "figure.canvas.mpl_connect('button_press_event', lambda event: seen.append((event.button, event.x)));",
        timeout_s=IMPORT_S,
    )
    canvas = models(cell.ignore_outputs())["MPLCanvasModel"]

    def send(content: dict[str, object]) -> Exchange:
        data = {"method": "custom", "content": content}
        return kernel.request("comm_msg", {"comm_id": canvas, "data": data}, expects_reply=False).wait()

    send({"type": "initialized"}).ignore_outputs()
    send({"type": "send_image_mode"}).ignore_outputs()
    drawn = send({"type": "draw"})
    images = [buffer for m in drawn.claim("comm_msg") for buffer in m.buffers]
    assert any(buffer.startswith(b"\x89PNG") for buffer in images)
    send(
        {"type": "button_press", "x": 120, "y": 80, "button": 0, "buttons": 1, "modifiers": [], "guiEvent": {}}
    ).ignore_outputs()
    assert kernel.run("seen").text == "[(<MouseButton.LEFT: 1>, 120)]"


# --- loops of toolkits -----------------------------------------------------------------------------------------------


def test_the_loop_of_asyncio_is_there_already(kernel: Client) -> None:
    kernel.run("%gui asyncio\nimport asyncio\ntask = asyncio.create_task(asyncio.sleep(0, 'ran'))")
    assert kernel.run("await task").text == "'ran'"
    kernel.run("%gui")


def test_what_tk_calls_is_called_while_cells_await_and_between_them(kernel: Client) -> None:
    """Without a window: Tcl's timers are events of the same loop."""
    kernel.run(
        "%gui tk\nimport asyncio, tkinter\nfired = asyncio.Event()\ntcl = tkinter.Tcl()\n"
        "tcl.createcommand('fire', lambda: (print('fired', flush=True), fired.set()))\n"
        "tcl.eval('after 1 fire');"
    )
    cell = kernel.run("await fired.wait();")
    kernel.drain()
    heard = [each for e in kernel.exchanges.values() for each in (*e.iopub, *e.late) if each.msg_type == "stream"]
    assert [message.content["text"] for message in heard] == ["fired\n"]
    for exchange in kernel.exchanges.values():
        exchange.ignore_outputs()
    kernel.run("%gui\nfired.clear()\ntcl.eval('after 1 fire');")
    kernel.run("await asyncio.sleep(0.1)")
    assert kernel.evaluate("fired.is_set()") == "False"
    assert cell.status == "ok"


def test_what_qt_calls_is_called(start_kernel: KernelStarter) -> None:
    pytest.importorskip("PySide6", reason="PySide6 is not installed")
    client = start_kernel(env={"QT_QPA_PLATFORM": "offscreen"})
    client.run(
        "%gui qt6\nimport asyncio\nfrom PySide6 import QtCore, QtWidgets\nfired = asyncio.Event()\n"
        "label = QtWidgets.QLabel('text'); label.show()\n"
        "QtCore.QTimer.singleShot(1, fired.set)",
        timeout_s=IMPORT_S,
    )
    client.run("await fired.wait();").claim("execute_result")
    assert client.run("label.isVisible()").text == "True"


@pytest.mark.parametrize(
    ("line", "part"),
    [("%gui wx", "'wx' is not supported by this kernel; those are: asyncio, qt, qt5, qt6, tk"), ("%gui qt5", "'qt5'")],
)
def test_a_toolkit_that_is_not_there_is_said(line: str, part: str, start_kernel: KernelStarter) -> None:
    client = start_kernel(env={"DISPLAY": "", "WAYLAND_DISPLAY": "", "QT_QPA_PLATFORM": ""})
    cell = client.execute(line)
    assert part in cell.stderr
    cell.ignore_outputs()
    assert client.run("1 + 1", stop_on_error=False).text == "2"


# --- magics that talk ------------------------------------------------------------------------------------------------


def test_pdb_is_called_by_an_error_when_it_is_on(kernel: Client) -> None:
    kernel.run("%pdb on").ignore_outputs()
    cell = kernel.start("inside = 42\n1 / 0", allow_stdin=True)
    question = kernel.wait_input_request(cell)
    assert question.content["prompt"] == "ipdb> "
    kernel.answer(question, "p inside + 1")
    kernel.answer(kernel.wait_input_request(cell), "q")
    assert "43" in cell.stdout
    assert cell.ignore_outputs().status == "error"
    kernel.run("%pdb off").ignore_outputs()
    assert kernel.execute("1 / 0", allow_stdin=True).ename == "ZeroDivisionError"


def test_a_profile_is_shown_in_the_pager(kernel: Client) -> None:
    cell = kernel.run("%prun -l 3 sum(range(10))")
    (payload,) = cell.content["payload"]
    assert payload["source"] == "page"
    assert "function calls" in payload["data"]["text/plain"]
    cell.ignore_outputs()


def test_autoreload_sees_a_file_change_between_cells(kernel: Client) -> None:
    module = kernel.process.cwd / "changing.py"
    module.write_text("def answer(): return 'old'\n")
    kernel.run("%load_ext autoreload\n%autoreload 2\nfrom changing import answer")
    assert kernel.run("answer()").text == "'old'"
    module.write_text("def answer(): return 'quite new'\n")
    assert kernel.run("answer()").text == "'quite new'"


def test_what_is_stored_is_there_in_the_next_kernel(start_kernel: KernelStarter) -> None:
    env = {"IPYTHONDIR": str(start_kernel.directory / "ipython")}
    first = start_kernel(env=env)
    assert "Stored 'treasure'" in first.run("treasure = {'gold': [1, 2]}\n%store treasure").stdout
    first.shutdown()
    first.process.wait_exit()
    second = start_kernel(env=env)
    assert second.run("%store -r treasure\ntreasure").text == "{'gold': [1, 2]}"


def test_a_script_in_the_background_is_left_to_itself(kernel: Client) -> None:
    cell = kernel.run("%%script bash --bg --out pipe --proc process\necho from the background")
    assert cell.ignore_outputs().status == "ok"
    assert kernel.run("(await pipe.read()).decode()").text == r"'from the background\n'"
    assert kernel.run("await process.wait()").text == "0"


# --- processes and threads -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_joblib_runs_functions_of_the_notebook_in_processes(kernel: Client) -> None:
    """Loky starts its workers afresh and sends them the notebook's functions by value."""
    kernel.run("offset = 100\ndef job(n):\n    import os\n    return n + offset, os.getpid()")
    cell = kernel.run(
        "import joblib, os\n"
        "got = joblib.Parallel(n_jobs=2, backend='loky')(joblib.delayed(job)(n) for n in range(4))\n"
        "[value for value, _ in got], os.getpid() in {pid for _, pid in got}",
        timeout_s=50,
    )
    assert cell.text == "([100, 101, 102, 103], False)"
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    # Loky warns of the notebook's module; and those of its workers that are slow say that they have lost their parent.
    cell.claim("stream")


def test_multiprocessing_by_spawn_says_where_it_needs_a_module(kernel: Client) -> None:
    """As on ipykernel: a spawned process has no notebook; a function of a module is found."""
    (kernel.process.cwd / "jobs.py").write_text("def double(n): return n * 2\n")
    cell = kernel.run(
        "import multiprocessing, jobs\n"
        "with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "    got = pool.apply(jobs.double, (21,))\n"
        "got",
        timeout_s=30,
    )
    assert cell.text == "42"
    cell.claim("stream")


def test_a_threads_output_belongs_to_the_cell_that_started_it(kernel: Client) -> None:
    first = kernel.run(
        "import threading\n"
        "gate = threading.Event()\n"
        "def work():\n"
        "    for n in range(3):\n"
        "        gate.wait()\n"
        "        print('thread', n, flush=True)\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()"
    )
    second = kernel.run("print('second')\ngate.set()\nthread.join()")
    assert second.stdout == "second\n"
    first.wait_late_stream("thread 2\n")
    assert first.late_stream() == "thread 0\nthread 1\nthread 2\n"


def test_ipykernel_s_application_and_connection_are_found(kernel: Client) -> None:
    kernel.run(
        "from traitlets.config import Application\n"
        "assert Application.initialized() and Application.instance().kernel is get_ipython().kernel\n"
        "from ipykernel.kernelapp import IPKernelApp\n"
        "assert IPKernelApp.initialized() and IPKernelApp.instance().kernel is get_ipython().kernel\n"
        "from ipykernel.connect import get_connection_file, get_connection_info\n"
        "info = get_connection_info(unpack=True)"
    )
    info = kernel.process.info
    assert kernel.evaluate("info['shell_port'], info['key'].decode()") == f"({info['shell_port']}, {info['key']!r})"


@pytest.mark.parametrize(
    "line",
    [
        "import ipykernel.zmqshell; kind = ipykernel.zmqshell.ZMQInteractiveShell",
        "import ipykernel.zmqshell as z; kind = z.ZMQInteractiveShell",
        "from ipykernel.zmqshell import ZMQInteractiveShell as kind",
        "import ipykernel as i\ni.__version__\nimport ipykernel.zmqshell\nkind = i.zmqshell.ZMQInteractiveShell",
    ],
)
def test_ipykernel_s_shell_is_imported_in_every_form(line: str, kernel: Client) -> None:
    kernel.run(line)
    assert kernel.evaluate("isinstance(get_ipython(), kind)") == "True"


def test_code_that_shuts_its_kernel_down_does(kernel: Client) -> None:
    """The usual way to restart from a cell: the server starts it again."""
    cell = kernel.run("import IPython\nIPython.get_ipython().kernel.do_shutdown(True)")
    assert cell.text == "{'status': 'ok', 'restart': True}"
    kernel.process.wait_exit()
    kernel.abandon()
    kernel.process.wait_gone()


def test_streams_know_whether_they_are_the_kernel_s(kernel: Client) -> None:
    cell = kernel.run(
        "import os, sys\nhere = sys.stdout._is_master_process()\npid = os.fork()\n"
        "if not pid: os._exit(sys.stdout._is_master_process())\n"
        "here, os.waitpid(pid, 0)[1]"
    )
    assert cell.text == "(True, 0)"
    # Python warns of the fork.
    cell.claim("stream")


def test_the_attributes_that_libraries_look_for_are_there(kernel: Client) -> None:
    names = (
        "_parent_header _parent_ident _aborting comm_manager config control_handlers do_complete do_inspect "
        "do_one_iteration do_shutdown log parent "
        "execution_count get_parent getpass iopub_socket post_handler_hook pre_handler_hook raw_input session "
        "set_parent shell shell_handlers shell_stream user_ns"
    )
    assert kernel.evaluate(f"[n for n in {names!r}.split() if not hasattr(get_ipython().kernel, n)]") == "[]"
    kernel.run(
        "import inspect\n"
        "kernel = get_ipython().kernel\n"
        "assert inspect.iscoroutinefunction(kernel.shell_handlers['execute_request'])\n"
        "original = kernel.shell_handlers['execute_request']\n"
        "kernel.shell_handlers['execute_request'] = None\n"
        "kernel.shell_handlers['execute_request'] = original\n"
        "kernel.set_parent(kernel._parent_ident, kernel.get_parent())"
    )
