"""ipywidgets on comms: state both ways with buffers, `Output`, `interact`, and what a reloaded page rebuilds them from.

The client's part is the protocol of ipywidgets ("Jupyter widgets messaging protocol", version 2.1), written out here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .starter import only_capsule
from .test_nbclient import client_of, execute

if TYPE_CHECKING:
    from .client import Client
    from .exchange import Cell, Exchange
    from .jupyter import Installed
    from .message import Message
    from .starter import KernelStarter

IMPORT_S = 40.0


def start_widgets(kernel: Client, code: str) -> dict[str, str]:
    """Run a cell that makes widgets; the comm ids by model name (one widget of each kind)."""
    cell = kernel.run(f"import ipywidgets as w\n{code}", timeout_s=IMPORT_S)
    return models(cell.ignore_outputs())


def models(exchange: Exchange) -> dict[str, str]:
    opened = [m for m in exchange.iopub if m.msg_type == "comm_open"]
    assert {m.content["target_name"] for m in opened} <= {"jupyter.widget"}
    assert all(m.metadata == {"version": "2.1.0"} for m in opened)
    return {str(m.content["data"]["state"]["_model_name"]): str(m.content["comm_id"]) for m in opened}


def set_state(kernel: Client, comm_id: str, state: dict[str, Any], **kw: Any) -> Exchange:
    data = {"method": "update", "state": state, "buffer_paths": kw.pop("buffer_paths", [])}
    return kernel.request("comm_msg", {"comm_id": comm_id, "data": data}, expects_reply=False, **kw)


def states(messages: list[Message], comm_id: str) -> list[dict[str, Any]]:
    """The updates of one widget's state among comm messages, without the echoes of the client's own."""
    return [
        m.content["data"]["state"]
        for m in messages
        if m.content["comm_id"] == comm_id and m.content["data"]["method"] == "update"
    ]


def echoes(messages: list[Message]) -> list[dict[str, Any]]:
    return [m.content["data"]["state"] for m in messages if m.content["data"]["method"] == "echo_update"]


@pytest.fixture
def slider(kernel: Client) -> str:
    return start_widgets(kernel, "slider = w.IntSlider(max=10)\nslider")["IntSliderModel"]


def test_a_sliders_value_travels_both_ways(slider: str, kernel: Client) -> None:
    kernel.run("slider.observe(lambda change: print('moved to', change.new), 'value')")
    moved = set_state(kernel, slider, {"value": 7}).wait()
    assert [m.content["text"] for m in moved.claim("stream")] == ["moved to 7\n"]
    assert echoes(moved.claim("comm_msg")) == [{"value": 7}]
    assert kernel.evaluate("slider.value") == "7"
    cell = kernel.run("slider.value = 3")
    assert cell.stdout == "moved to 3\n"
    assert states(cell.claim("comm_msg"), slider) == [{"value": 3}]


def test_a_value_that_python_corrects_goes_back(slider: str, kernel: Client) -> None:
    moved = set_state(kernel, slider, {"value": 99}).wait()
    assert states(moved.claim("comm_msg"), slider) == [{"value": 10}]


def test_a_slider_moves_while_a_cell_awaits_it(slider: str, kernel: Client) -> None:
    cell = kernel.start(
        "import asyncio\n"
        "moved = asyncio.get_running_loop().create_future()\n"
        "slider.observe(lambda change: moved.set_result(change.new), 'value')\n"
        "print('move it', flush=True)\n"
        "await moved"
    )
    cell.wait_stream("move it")
    set_state(kernel, slider, {"value": 4}).wait().claim("comm_msg")
    assert cell.text == "4"


def test_binary_state_travels_both_ways(kernel: Client) -> None:
    cell = kernel.run("import ipywidgets as w\nimage = w.Image(value=b'\\x89PNG\\x00\\xff')", timeout_s=IMPORT_S)
    opened = next(m for m in cell.claim("comm_open") if m.content["data"]["state"]["_model_name"] == "ImageModel")
    assert opened.content["data"]["buffer_paths"] == [["value"]]
    assert opened.buffers == [b"\x89PNG\x00\xff"]
    large = bytes(range(256)) * 8192
    told = set_state(kernel, opened.content["comm_id"], {}, buffer_paths=[["value"]], buffers=[large]).wait()
    told.ignore_outputs()
    assert (
        kernel.evaluate("(len(image.value), bytes(image.value) == bytes(range(256)) * 8192)") == f"({len(large)}, True)"
    )
    (update,) = kernel.run("image.value = image.value[:1000]").claim("comm_msg")
    assert update.buffers == [large[:1000]]


def test_a_button_calls_its_handlers(kernel: Client) -> None:
    button = start_widgets(kernel, "button = w.Button()\nbutton.on_click(lambda b: print('clicked'))")["ButtonModel"]
    click = {"method": "custom", "content": {"event": "click"}}
    clicked = kernel.request("comm_msg", {"comm_id": button, "data": click}, expects_reply=False).wait()
    assert [m.content["text"] for m in clicked.claim("stream")] == ["clicked\n"]


@only_capsule("nothing in ipykernel handles a message while a cell blocks")
def test_a_stop_button_ends_a_loop_that_never_awaits(kernel: Client) -> None:
    button = start_widgets(
        kernel,
        "running = True\n"
        "def stop(button):\n"
        "    global running\n"
        "    running = False\n"
        "button = w.Button()\n"
        "button.on_click(stop)\n"
        "button.comm.on_msg(button._handle_msg, while_blocked=True)",
    )["ButtonModel"]
    cell = kernel.start("print('turns', flush=True)\nwhile running: pass\nprint('stopped')")
    cell.wait_stream("turns")
    click = {"method": "custom", "content": {"event": "click"}}
    kernel.request("comm_msg", {"comm_id": button, "data": click}, expects_reply=False).wait()
    cell.succeeded()
    assert cell.stdout == "turns\nstopped\n"


def test_an_error_in_a_widgets_callback_is_shown(slider: str, kernel: Client) -> None:
    kernel.run("slider.observe(lambda change: 1 / 0, 'value')")
    moved = set_state(kernel, slider, {"value": 1}).wait()
    assert [m.content["ename"] for m in moved.claim("error")] == ["ZeroDivisionError"]
    moved.claim("comm_msg")


def captured(exchange: Exchange, output: str) -> list[str]:
    """What a front end moves into an Output widget: text with the parent that the widget's state names meanwhile."""
    texts, wanted = [], ""
    for message in exchange.claim():
        if message.msg_type == "comm_msg":
            for state in states([message], output):
                wanted = state.get("msg_id", wanted)
        elif message.msg_type == "stream" and wanted == message.parent_id:
            texts.append(str(message.content["text"]))
    assert wanted == ""
    return texts


def test_an_output_widget_captures_what_its_block_prints(kernel: Client) -> None:
    output = start_widgets(kernel, "out = w.Output()")["OutputModel"]
    cell = kernel.run("print('before')\nwith out:\n    print('inside')\nprint('after')")
    assert cell.stdout == "before\ninside\nafter\n"
    assert captured(cell, output) == ["inside\n"]


def test_an_output_widget_captures_the_errors_of_its_block(kernel: Client) -> None:
    start_widgets(kernel, "out = w.Output()")
    cell = kernel.run("with out:\n    1 / 0\nprint('goes on')")
    assert [m.content["ename"] for m in cell.claim("error")] == ["ZeroDivisionError"]
    assert cell.stdout == "goes on\n"
    cell.claim("comm_msg")


def test_an_output_widget_captures_in_callbacks_and_their_tasks(kernel: Client) -> None:
    ids = start_widgets(
        kernel,
        "import asyncio\n"
        "out = w.Output()\n"
        "slider = w.IntSlider()\n"
        "@out.capture()\n"
        "def moved(change):\n"
        "    print('captured', change.new)\n"
        "    global task\n"
        "    task = asyncio.create_task(later())\n"
        "async def later():\n"
        "    await go.wait()\n"
        "    with out:\n"
        "        print('of a task')\n"
        "    print('outside')\n"
        "go = asyncio.Event()\n"
        "slider.observe(moved, 'value')",
    )
    told = set_state(kernel, ids["IntSliderModel"], {"value": 5}).wait()
    assert captured(told, ids["OutputModel"]) == ["captured 5\n"]
    kernel.run("go.set()\nawait task")
    kernel.wait_until(lambda: any("outside" in str(m.content) for m in told.late), "the task's output")
    wanted, texts = "", {}
    for message in told.late:
        if message.msg_type == "comm_msg":
            wanted = message.content["data"]["state"]["msg_id"]
        else:
            texts[message.content["text"]] = wanted
    assert texts == {"of a task\n": told.msg_id, "outside\n": ""}
    told.ignore_outputs()


def test_interact_calls_its_function_for_each_value(kernel: Client) -> None:
    cell = kernel.run(
        "import ipywidgets as w\n@w.interact(x=3)\ndef double(x):\n    print('got', x)\n    return x * 2",
        timeout_s=IMPORT_S,
    )
    ids = models(cell)
    assert captured(cell, ids["OutputModel"]) == ["got 3\n"]
    moved = set_state(kernel, ids["IntSliderModel"], {"value": 5}).wait()
    shown = moved.claim("clear_output", "display_data")
    assert [m.msg_type for m in shown] == ["clear_output", "display_data"]
    assert shown[1].content["data"]["text/plain"] == "10"
    assert captured(moved, ids["OutputModel"]) == ["got 5\n"]


def test_interact_shows_plots(kernel: Client) -> None:
    cell = kernel.run(
        "import ipywidgets as w\n"
        "import matplotlib.pyplot as plt\n"
        "@w.interact(n=3)\n"
        "def draw(n):\n"
        "    plt.plot(range(n))",
        timeout_s=IMPORT_S,
    )
    assert count_images(cell) == 1
    ids = models(cell)
    for value in (4, 5):
        moved = set_state(kernel, ids["IntSliderModel"], {"value": value}).wait(IMPORT_S)
        assert count_images(moved) == 1


def count_images(exchange: Cell | Exchange) -> int:
    return sum("image/png" in m.content.get("data", {}) for m in exchange.claim() if m.msg_type == "display_data")


def test_a_reloaded_page_gets_all_widgets_states(slider: str, kernel: Client, start_kernel: KernelStarter) -> None:
    kernel.run("slider.value = 6").claim("comm_msg")
    again = start_kernel.connect(kernel.process)
    comms = again.ask("comm_info_request", {"target_name": "jupyter.widget"})["comms"]
    assert slider in comms
    content = {"comm_id": "control", "target_name": "jupyter.widget.control", "data": {}}
    again.request("comm_open", content, expects_reply=False, metadata={"version": "1.0.0"}).wait()
    asked = again.request(
        "comm_msg", {"comm_id": "control", "data": {"method": "request_states"}}, expects_reply=False
    ).wait()
    (answer,) = asked.claim("comm_msg")
    assert answer.content["data"]["method"] == "update_states"
    assert set(answer.content["data"]["states"]) == set(comms)
    assert answer.content["data"]["states"][slider]["state"]["value"] == 6
    # The page has the other identity now; the widget goes on with it.
    set_state(again, slider, {"value": 1}).wait().claim("comm_msg")
    assert again.evaluate("slider.value") == "1"


def test_a_progress_bar_moves_while_its_cell_runs(kernel: Client) -> None:
    bar = start_widgets(kernel, "bar = w.IntProgress(max=5)")["IntProgressModel"]
    cell = kernel.run("for n in range(1, 6):\n    bar.value = n\n    print(n)")
    moves = [state for message in cell.claim("comm_msg") for state in states([message], bar)]
    assert moves == [{"value": n} for n in range(1, 6)]
    # As on ipykernel: a comm message is no output, and parts no text.
    assert cell.stdout == "1\n2\n3\n4\n5\n"


def test_closed_widgets_are_not_in_comm_info(slider: str, kernel: Client) -> None:
    assert slider in kernel.ask("comm_info_request")["comms"]
    closed = kernel.run("w.Widget.close_all()").claim("comm_close")
    assert slider in {m.content["comm_id"] for m in closed}
    assert kernel.ask("comm_info_request")["comms"] == {}


def test_preloaded_widgets_work_in_every_worker(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.preload=['ipywidgets']")
    for _ in range(2):
        assert kernel.evaluate("'ipywidgets' in __import__('sys').modules") == "True"
        slider = start_widgets(kernel, "slider = w.IntSlider(max=10)")["IntSliderModel"]
        set_state(kernel, slider, {"value": 7}).wait().claim("comm_msg")
        assert kernel.evaluate("slider.value") == "7"
        kernel.run("%reset --worker")
        kernel.wait_until(lambda: bool(kernel.unclaimed), "comm_close")
        # With this request's idle the other closes have come too.
        assert kernel.ask("comm_info_request")["comms"] == {}
        kernel.claim_unparented("comm_close")


def test_nbclient_stores_the_widgets_of_a_notebook(installed: Installed) -> None:
    cells = (
        "import ipywidgets as w\nout = w.Output()\nslider = w.IntSlider(value=3)\ndisplay(slider, out)",
        "with out:\n    print('captured')\nslider.value = 4",
    )
    node = execute(installed, client_of(installed, *cells))
    (stored,) = node.metadata.widgets.values()
    values = [model["state"].get("value") for model in stored["state"].values()]
    assert 4 in values
    outputs = [model["state"]["outputs"] for model in stored["state"].values() if "outputs" in model["state"]]
    assert [[o["text"] for o in each] for each in outputs] == [["captured\n"]]
    assert node.cells[1].outputs == []
