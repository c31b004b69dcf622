"""Comms, both ways: whose message an output belongs to, when a handler runs, and what becomes of open comms.

Issue: comm messages are handled while an async cell awaits, and never race user code or matplotlib; `comm_info` after a
page reload rebuilds widgets.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from .exchange import plain
from .starter import only_capsule

if TYPE_CHECKING:
    from pathlib import Path

    from .client import Client
    from .exchange import Exchange
    from .starter import KernelStarter

NO_SNAPSHOTS = "--CapsuleKernel.snapshots=0"
"""For a death after which comms are closed: those of a snapshot would live on (`test_snapshots`)."""
LISTEN = (
    "from comm import get_comm_manager\n"
    "got = []\n"
    "def opened(comm, msg):\n"
    "    comm.on_msg(lambda msg: got.append(msg['content']['data']))\n"
    "get_comm_manager().register_target('listener', opened)"
)


def open_comm(kernel: Client, comm_id: str = "c1", target_name: str = "listener", data: Any = None) -> Exchange:
    content = {"comm_id": comm_id, "target_name": target_name, "data": data or {}}
    return kernel.request("comm_open", content, expects_reply=False)


def tell(kernel: Client, data: Any, comm_id: str = "c1", **kw: Any) -> Exchange:
    return kernel.request("comm_msg", {"comm_id": comm_id, "data": data}, expects_reply=False, **kw)


def handle_with(kernel: Client, body: str, comm_id: str = "c1") -> None:
    """Open a comm whose messages are handled by the lines of `body`, which know the message as `msg`."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    kernel.run(
        "from comm import get_comm_manager\n"
        f"def handle(msg):\n{indented}"
        "get_comm_manager().register_target('own', lambda comm, msg: comm.on_msg(handle))"
    )
    open_comm(kernel, comm_id, "own").wait()


class Gate:
    """A file that a cell blocks on, without the interpreter's lock, until the test lets it go on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    @property
    def code(self) -> str:
        return f"print(open({str(self.path)!r}).read(), end='', flush=True)"

    def release(self, text: str = "released\n") -> None:
        self.path.write_text(text)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


# --- both ways -------------------------------------------------------------------------------------------------------


def test_comms_open_from_the_kernel_and_answer(kernel: Client) -> None:
    code = (
        "from comm import create_comm\n"
        "got = []\n"
        "c = create_comm(target_name='front-end', data={'opened': 1}, buffers=[b'\\x00\\xff'])\n"
        "def heard(msg):\n"
        "    got.append((msg['content']['data'], [bytes(b) for b in msg['buffers']]))\n"
        "    c.send('heard')\n"
        "c.on_msg(heard)"
    )
    (opened,) = kernel.run(code).claim("comm_open")
    assert opened.content["target_name"] == "front-end"
    assert opened.content["data"] == {"opened": 1}
    assert opened.buffers == [b"\x00\xff"]
    comm_id = opened.content["comm_id"]
    assert kernel.ask("comm_info_request")["comms"] == {comm_id: {"target_name": "front-end"}}
    sent = kernel.request(
        "comm_msg", {"comm_id": comm_id, "data": {"n": 5}}, buffers=[b"binary\x00"], expects_reply=False
    ).wait()
    assert [m.content["data"] for m in sent.claim("comm_msg")] == ["heard"]
    assert kernel.evaluate("got") == "[({'n': 5}, [b'binary\\x00'])]"
    kernel.run("c.close()").claim("comm_close")
    assert kernel.ask("comm_info_request")["comms"] == {}


def test_comms_open_from_the_client(kernel: Client) -> None:
    kernel.run(
        "from comm import get_comm_manager\n"
        "def opened(comm, msg):\n"
        "    comm.on_msg(lambda msg: print('got', msg['content']['data']))\n"
        "    comm.send({'welcome': msg['content']['data']})\n"
        "get_comm_manager().register_target('kernel-side', opened)"
    )
    content = {"comm_id": "c1", "target_name": "kernel-side", "data": "hello"}
    exchange = kernel.request("comm_open", content, expects_reply=False).wait()
    assert [m.content["data"] for m in exchange.claim("comm_msg")] == [{"welcome": "hello"}]
    printed = kernel.request("comm_msg", {"comm_id": "c1", "data": 7}, expects_reply=False).wait()
    # What a handler prints belongs to the message that it handles.
    assert [m.content["text"] for m in printed.claim("stream")] == ["got 7\n"]
    info = kernel.ask("comm_info_request", {"target_name": "another"})
    assert info["comms"] == {}
    kernel.request("comm_close", {"comm_id": "c1", "data": {}}, expects_reply=False).wait()
    assert kernel.ask("comm_info_request")["comms"] == {}


def test_a_comm_of_an_unknown_target_is_closed(kernel: Client) -> None:
    content = {"comm_id": "c2", "target_name": "nobody", "data": {}}
    exchange = kernel.request("comm_open", content, expects_reply=False).wait()
    assert [m.content["comm_id"] for m in exchange.claim("comm_close")] == ["c2"]
    exchange.claim("stream")
    assert kernel.ask("comm_info_request")["comms"] == {}


def test_buffers_of_any_shape_and_size_arrive_whole(kernel: Client) -> None:
    """More than one fragment on the link, no contiguous memory, items of more than a byte."""
    kernel.run(
        "import numpy\n"
        "from comm import create_comm\n"
        "c = create_comm(target_name='front-end')\n"
        "def echo(msg):\n"
        "    c.send(sum(b.nbytes for b in msg['buffers']), buffers=msg['buffers'], metadata={'m': [1]})\n"
        "c.on_msg(echo)"
    ).claim("comm_open")
    (comm_id,) = kernel.ask("comm_info_request")["comms"]
    sent = [os.urandom(3_000_000), b"", bytes(range(256))]
    (back,) = tell(kernel, {}, comm_id, buffers=sent).wait().claim("comm_msg")
    assert back.content["data"] == sum(map(len, sent))
    assert back.metadata == {"m": [1]}
    assert back.buffers == sent
    cell = kernel.run(
        "grid = numpy.arange(12, dtype='<u2').reshape(3, 4)\n"
        "c.send({}, buffers=[grid, grid.T, grid[:, ::2], bytearray(b'xy'), memoryview(b'abc')])"
    )
    (message,) = cell.claim("comm_msg")
    rows = [[row * 4 + column for column in range(4)] for row in range(3)]

    def little_endian(values: list[int]) -> bytes:
        return b"".join(value.to_bytes(2, "little") for value in values)

    assert message.buffers == [
        little_endian([value for row in rows for value in row]),
        little_endian([rows[row][column] for column in range(4) for row in range(3)]),
        little_endian([value for row in rows for value in row[::2]]),
        b"xy",
        b"abc",
    ]


@only_capsule("its setting")
def test_a_message_above_the_limit_is_an_error_where_it_is_sent(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.max_output_bytes=100000")
    kernel.run("from comm import create_comm\nc = create_comm()").claim("comm_open")
    error = kernel.execute("c.send({}, buffers=[bytes(100_001)])").error
    assert error["ename"] == "OutputTooLarge"
    assert "CapsuleKernel.max_output_bytes" in error["evalue"]
    kernel.run("c.send({}, buffers=[bytes(1000)])").claim("comm_msg")


def test_comms_are_served_on_the_control_channel_too(kernel: Client) -> None:
    kernel.run(LISTEN)
    open_comm(kernel).wait()
    tell(kernel, 1, channel="control").wait()
    assert kernel.evaluate("got") == "[1]"


@only_capsule("ipykernel leaves such a message without an idle")
@pytest.mark.parametrize("content", [{}, {"comm_id": 5}, {"comm_id": "c1", "target_name": None}])
def test_a_message_that_is_none_is_dropped_with_its_bracket(content: dict[str, Any], shared_kernel: Client) -> None:
    shared_kernel.request("comm_open", content, expects_reply=False).wait()
    assert shared_kernel.evaluate("1") == "1"


def test_a_message_to_a_comm_that_is_not_open_is_dropped(shared_kernel: Client) -> None:
    tell(shared_kernel, 1, "nowhere").wait().claim("stream")
    shared_kernel.request("comm_close", {"comm_id": "nowhere", "data": {}}, expects_reply=False).wait().claim("stream")
    assert "nowhere" not in shared_kernel.ask("comm_info_request")["comms"]


def test_comm_info_names_what_is_open_to_every_client(kernel: Client, start_kernel: KernelStarter) -> None:
    kernel.run(LISTEN)
    open_comm(kernel, "theirs").wait()
    cell = kernel.run("from comm import create_comm\nc = create_comm(target_name='other', comm_id='ours')")
    cell.claim("comm_open")
    both = {"theirs": {"target_name": "listener"}, "ours": {"target_name": "other"}}
    assert kernel.ask("comm_info_request")["comms"] == both
    assert kernel.ask("comm_info_request", {"target_name": "other"})["comms"] == {"ours": both["ours"]}
    # As after a reload of the page: a client that was not there when they were opened.
    again = start_kernel.connect(kernel.process)
    assert again.ask("comm_info_request")["comms"] == both
    kernel.run("c.close()").claim("comm_close")
    assert again.ask("comm_info_request")["comms"] == {"theirs": both["theirs"]}


def test_the_callback_of_a_closed_comm_is_told(kernel: Client) -> None:
    kernel.run(
        "from comm import get_comm_manager\n"
        "ends = []\n"
        "def opened(comm, msg):\n"
        "    comm.on_close(lambda msg: ends.append(msg['content']['data']))\n"
        "get_comm_manager().register_target('ending', opened)"
    )
    open_comm(kernel, target_name="ending").wait()
    kernel.request("comm_close", {"comm_id": "c1", "data": "bye"}, expects_reply=False).wait()
    assert kernel.evaluate("(ends, len(get_comm_manager().comms))") == "(['bye'], 0)"


# --- what belongs to a message ---------------------------------------------------------------------------------------


def test_all_that_a_handler_shows_belongs_to_its_message(shared_kernel: Client) -> None:
    handle_with(
        shared_kernel,
        "import os, sys\nprint('out')\nprint('err', file=sys.stderr)\ndisplay(1)\n_ = os.system('echo child')",
    )
    messages = tell(shared_kernel, {}).wait().claim()
    assert [(m.msg_type, m.content.get("text")) for m in messages if m.content.get("text") != "child\n"] == [
        ("stream", "out\n"),
        ("stream", "err\n"),
        ("display_data", None),
    ]
    assert [m.content["name"] for m in messages if m.content.get("text") == "child\n"] == ["stdout"]


def test_a_handler_knows_its_request(shared_kernel: Client) -> None:
    handle_with(
        shared_kernel,
        "ip = get_ipython()\n"
        "parent = ip.get_parent()\n"
        "print(parent['header']['msg_id'], ip.kernel.get_parent()['content']['data'], msg['header']['msg_id'])",
    )
    told = tell(shared_kernel, "payload").wait()
    (printed,) = told.claim("stream")
    assert printed.content["text"] == f"{told.msg_id} payload {told.msg_id}\n"


def test_an_error_in_a_handler_is_shown_and_changes_nothing(shared_kernel: Client) -> None:
    handle_with(shared_kernel, "raise ValueError('from a handler')")
    (error,) = tell(shared_kernel, {}).wait().claim("error")
    assert (error.content["ename"], error.content["evalue"]) == ("ValueError", "from a handler")
    traceback = plain("\n".join(error.content["traceback"]))
    assert "line 3" in traceback
    assert "capsule_kernel" not in traceback
    shared_kernel.run("pass")
    assert tell(shared_kernel, {}).wait().claim("error") != []


def test_a_target_that_fails_closes_its_comm(shared_kernel: Client) -> None:
    shared_kernel.run(
        "from comm import get_comm_manager\nget_comm_manager().register_target('failing', lambda comm, msg: 1 / 0)"
    )
    opened = open_comm(shared_kernel, "f1", "failing").wait()
    assert [m.content["comm_id"] for m in opened.claim("comm_close")] == ["f1"]
    opened.claim("error", "stream")
    assert "f1" not in shared_kernel.ask("comm_info_request")["comms"]


def test_what_a_handler_prints_is_published_while_it_runs(gate: Gate, kernel: Client) -> None:
    handle_with(kernel, f"print('begun')\n{gate.code}")
    told = tell(kernel, {})
    kernel.wait_until(lambda: bool(told.iopub), "output of a handler that blocks")
    assert told.idle is None
    gate.release("ended\n")
    assert "".join(m.content["text"] for m in told.wait().claim("stream")) == "begun\nended\n"


def test_a_task_that_a_handler_starts_outlives_it(kernel: Client) -> None:
    handle_with(
        kernel,
        "import asyncio\n"
        "async def later():\n"
        "    print(await go, get_ipython().get_parent()['header']['msg_id'])\n"
        "global go, task\n"
        "go = asyncio.get_running_loop().create_future()\n"
        "task = asyncio.create_task(later())",
    )
    told = tell(kernel, {}).wait()
    kernel.run("go.set_result('late')\nawait task")
    kernel.wait_until(lambda: bool(told.late), "output of a handler's task")
    assert [m.content["text"] for m in told.late] == [f"late {told.msg_id}\n"]
    told.ignore_outputs()


def test_a_handler_sees_the_sessions_context_and_keeps_its_changes_to_itself(shared_kernel: Client) -> None:
    handle_with(shared_kernel, "print(variable.get())\nvariable.set('of the handler')")
    shared_kernel.run("import contextvars\nvariable = contextvars.ContextVar('v')\n_ = variable.set('of the cell')")
    assert [m.content["text"] for m in tell(shared_kernel, {}).wait().claim("stream")] == ["of the cell\n"]
    assert shared_kernel.run("variable.get()").text == "'of the cell'"


def test_hooks_of_execution_run_around_a_handler(shared_kernel: Client) -> None:
    """`%matplotlib inline` shows a handler's figures so."""
    handle_with(shared_kernel, "print('handler')")
    shared_kernel.run(
        "def before(): print('before')\n"
        "def after(): print('after')\n"
        "get_ipython().events.register('pre_execute', before)\n"
        "get_ipython().events.register('post_execute', after)"
    ).claim("stream")
    (printed,) = tell(shared_kernel, {}).wait().claim("stream")
    assert printed.content["text"] == "before\nhandler\nafter\n"
    shared_kernel.run(
        "get_ipython().events.unregister('pre_execute', before)\nget_ipython().events.unregister('post_execute', after)"
    ).claim("stream")


# --- when a handler runs ---------------------------------------------------------------------------------------------


def test_handlers_run_while_a_cell_awaits(kernel: Client) -> None:
    handle_with(kernel, "answer.set_result(msg['content']['data'])\nprint('handled')")
    cell = kernel.start(
        "import asyncio\n"
        "answer = asyncio.get_running_loop().create_future()\n"
        "print('waiting', flush=True)\n"
        "print(await answer)"
    )
    cell.wait_stream("waiting")
    told = tell(kernel, "the answer").wait()
    assert [m.content["text"] for m in told.claim("stream")] == ["handled\n"]
    cell.succeeded()
    assert cell.stdout == "waiting\nthe answer\n"


def test_comms_are_opened_and_answer_while_a_cell_awaits(kernel: Client) -> None:
    cell = kernel.start(
        LISTEN.replace(
            "got.append(msg['content']['data'])", "(comm.send(msg['content']['data'], buffers=msg['buffers']))"
        )
        + "\nimport asyncio\nfinish = asyncio.Event()\n"
        "get_comm_manager().register_target('finish', lambda comm, msg: finish.set())\n"
        "print('waiting', flush=True)\n_ = await finish.wait()"
    )
    cell.wait_stream("waiting")
    open_comm(kernel).wait()
    (echo,) = tell(kernel, {"n": 1}, buffers=[b"\x01"]).wait().claim("comm_msg")
    assert (echo.content["data"], echo.buffers) == ({"n": 1}, [b"\x01"])
    assert not cell.is_done
    open_comm(kernel, "c2", "finish").wait()
    cell.succeeded()


def test_while_a_cell_blocks_messages_wait_in_order(gate: Gate, kernel: Client) -> None:
    kernel.run(LISTEN)
    open_comm(kernel).wait()
    cell = kernel.start(f"print('blocks', flush=True)\n{gate.code}\nprint(got)")
    cell.wait_stream("blocks")
    told = [tell(kernel, number) for number in range(20)]
    # The front answers, and the worker has not handled any.
    assert kernel.ask("comm_info_request")["comms"] == {"c1": {"target_name": "listener"}}
    assert not any(each.is_done for each in told)
    gate.release()
    cell.succeeded()
    assert cell.stdout.endswith("released\n[]\n")
    for each in told:
        each.wait()
    assert kernel.evaluate("got == list(range(20))") == "True"


def test_a_message_before_a_cell_is_handled_before_it(kernel: Client) -> None:
    kernel.run(LISTEN)
    open_comm(kernel).wait()
    for number in range(50):
        told, cell = tell(kernel, number), kernel.start("got[-1]")
        assert cell.text == str(number)
        told.wait()


@only_capsule("ipykernel handles it when all cells of the queue are done")
def test_messages_of_open_comms_are_handled_before_the_cells_that_wait(gate: Gate, kernel: Client) -> None:
    kernel.run(LISTEN)
    open_comm(kernel).wait()
    first = kernel.start(f"print('blocks', flush=True)\n{gate.code}")
    first.wait_stream("blocks")
    waiting = [kernel.start("print(got)") for _ in range(3)]
    told = tell(kernel, "between")
    # Both are with the kernel when this is answered.
    kernel.ask("kernel_info_request")
    gate.release()
    told.wait()
    assert first.succeeded().stdout == "blocks\nreleased\n"
    assert [cell.succeeded().stdout for cell in waiting] == ["['between']\n"] * 3


def test_a_comm_is_opened_after_the_cells_before_it(gate: Gate, kernel: Client) -> None:
    """One of them may register its target."""
    first = kernel.start(f"print('blocks', flush=True)\n{gate.code}")
    first.wait_stream("blocks")
    registers = kernel.start(LISTEN)
    opened, told = open_comm(kernel), tell(kernel, 1)
    after = kernel.start("got")
    gate.release()
    for each in (first, registers, opened, told):
        each.wait()
    assert first.stdout == "blocks\nreleased\n"
    assert after.text == "[1]"


def test_an_error_aborts_cells_and_no_comm_messages(gate: Gate, kernel: Client) -> None:
    kernel.run(LISTEN)
    open_comm(kernel).wait()
    first = kernel.start(f"print('blocks', flush=True)\n{gate.code}\n1 / 0")
    first.wait_stream("blocks")
    aborted = kernel.start("'never'")
    opened, told = open_comm(kernel, "c2"), tell(kernel, 2, "c2")
    gate.release()
    assert first.ename == "ZeroDivisionError"
    assert first.stdout == "blocks\nreleased\n"
    assert aborted.status == "aborted"
    opened.wait()
    told.wait()
    assert kernel.evaluate("got") == "[2]"


def test_a_message_that_comes_with_its_cell_waits_for_its_await(kernel: Client) -> None:
    """Sent in one burst, so that the worker reads cell and messages at once."""
    kernel.run(LISTEN)
    open_comm(kernel).wait()
    for number in range(20):
        cell = kernel.start(
            "import asyncio\nseen = list(got)\nwhile not got:\n    await asyncio.sleep(0.001)\ngot.clear()\nseen"
        )
        told = tell(kernel, number)
        assert cell.text == "[]"
        told.wait()


def test_messages_reach_a_worker_that_starts(start_kernel: KernelStarter, tmp_path: Path) -> None:
    folder = tmp_path / "ipython" / "profile_default" / "startup"
    folder.mkdir(parents=True)
    gate = Gate(tmp_path / "slow-start")
    (folder / "00.py").write_text(f"{gate.code}\n{LISTEN}\n")
    kernel = start_kernel("--CapsuleKernel.spare_workers=0", env={"IPYTHONDIR": str(tmp_path / "ipython")})
    opened, told = open_comm(kernel), tell(kernel, "early")
    cell = kernel.start("got")
    gate.release("")
    opened.wait()
    told.wait()
    assert cell.text == "['early']"


@only_capsule("nothing in ipykernel handles a message while a cell blocks")
def test_a_handler_that_asks_for_it_does_not_wait_for_a_blocked_cell(gate: Gate, kernel: Client) -> None:
    kernel.run(
        "import threading\n"
        "from comm import get_comm_manager\n"
        "stop = threading.Event()\n"
        "def on_message(msg):\n"
        "    print(threading.current_thread() is threading.main_thread())\n"
        "    if msg['content']['data'] == 'fail':\n"
        "        raise RuntimeError('in the helper')\n"
        "    stop.set()\n"
        "def opened(comm, msg):\n"
        "    comm.on_msg(on_message, while_blocked=True)\n"
        "get_comm_manager().register_target('stop', opened)"
    )
    open_comm(kernel, target_name="stop").wait()
    assert [m.content["text"] for m in tell(kernel, {}).wait().claim("stream")] == ["True\n"]
    cell = kernel.start("stop.clear()\nprint('blocks', flush=True)\n_ = stop.wait()\nprint('stopped')")
    cell.wait_stream("blocks")
    failed = tell(kernel, "fail").wait()
    assert [m.content["evalue"] for m in failed.claim("error")] == ["in the helper"]
    assert [m.content["text"] for m in failed.claim("stream")] == ["False\n"]
    assert not cell.is_done
    assert [m.content["text"] for m in tell(kernel, {}).wait().claim("stream")] == ["False\n"]
    cell.succeeded()
    assert cell.stdout == "blocks\nstopped\n"
    # And where nothing blocks, on the main thread, also while a cell awaits.
    cell = kernel.start(
        "import asyncio\nprint('awaits', flush=True)\nstop.clear()\nwhile not stop.is_set(): await asyncio.sleep(0.01)"
    )
    cell.wait_stream("awaits")
    assert [m.content["text"] for m in tell(kernel, {}).wait().claim("stream")] == ["True\n"]
    cell.succeeded()


@only_capsule("ipykernel closes the cell's figure")
def test_a_handler_leaves_the_figures_of_an_awaiting_cell_alone(kernel: Client) -> None:
    handle_with(kernel, "plt.plot([1, 2])\nplt.title('handler')\ngo.set()")
    cell = kernel.start(
        "import asyncio\n"
        "import matplotlib.pyplot as plt\n"
        "go = asyncio.Event()\n"
        "plt.plot([1, 2, 3])\n"
        "mine = plt.gcf()\n"
        "print('half-way', flush=True)\n"
        "await go.wait()\n"
        "assert plt.gcf() is mine and not mine.axes[0].get_title()\n"
        "plt.title('cell');"
    )
    kernel.wait_until(lambda: bool(cell.iopub), "the cell", 40)
    cell.wait_stream("half-way", timeout_s=40)
    (shown,) = tell(kernel, {}).wait(40).claim("display_data")
    assert "image/png" in shown.content["data"]
    cell.wait(40).succeeded()
    (own,) = cell.displays
    assert "image/png" in own["data"]


# --- ends ------------------------------------------------------------------------------------------------------------


def test_an_interrupt_ends_a_handler(kernel: Client) -> None:
    handle_with(kernel, "print('begun', flush=True)\nwhile True: pass")
    told = tell(kernel, {})
    kernel.wait_until(lambda: bool(told.iopub), "the handler's output")
    kernel.interrupt()
    told.wait()
    assert [m.content["ename"] for m in told.claim("error")] == ["KeyboardInterrupt"]
    told.claim("stream")
    assert kernel.run("6 * 7").text == "42"


@only_capsule("an await is not interrupted there")
def test_an_interrupt_ends_a_handler_that_keeps_a_cell_from_going_on(kernel: Client) -> None:
    handle_with(kernel, "print('begun', flush=True)\nwhile True: pass")
    cell = kernel.start("import asyncio\nprint('awaits', flush=True)\nawait asyncio.sleep(600)")
    cell.wait_stream("awaits")
    told = tell(kernel, {})
    kernel.wait_until(lambda: bool(told.iopub), "the handler's output")
    kernel.interrupt()
    assert cell.ename == "KeyboardInterrupt"
    assert cell.stdout == "awaits\n"
    told.wait()
    assert [m.content["ename"] for m in told.claim("error")] == ["KeyboardInterrupt"]
    told.claim("stream")
    tell(kernel, {}, "nowhere").wait()
    assert kernel.run("6 * 7").text == "42"


@only_capsule("other kernels die with their worker")
def test_a_handler_that_ends_the_worker_ends_its_comms_and_not_the_kernel(start_kernel: KernelStarter) -> None:
    kernel = start_kernel(NO_SNAPSHOTS)
    kernel.run(LISTEN)
    open_comm(kernel, "other").wait()
    handle_with(kernel, "import os\nos._exit(3)")
    told = tell(kernel, {})
    behind = tell(kernel, {})
    told.wait()
    (said,) = told.claim("stream")
    assert "died" in said.content["text"]
    assert "3" in said.content["text"]
    assert {m.content["comm_id"] for m in told.claim("comm_close")} == {"other", "c1"}
    # Lost with the worker, or handled by the next one, for which the comm is unknown.
    behind.wait()
    assert kernel.ask("comm_info_request")["comms"] == {}
    assert kernel.run("6 * 7").text == "42"
    kernel.run(LISTEN)
    open_comm(kernel, "new").wait()
    assert kernel.ask("comm_info_request")["comms"] == {"new": {"target_name": "listener"}}


@only_capsule("other kernels die with their worker")
def test_a_cell_that_ends_the_worker_closes_its_comms(gate: Gate, start_kernel: KernelStarter) -> None:
    kernel = start_kernel(NO_SNAPSHOTS)
    kernel.run(LISTEN)
    open_comm(kernel).wait()
    cell = kernel.start(f"import os\nprint('blocks', flush=True)\n{gate.code}\nos._exit(1)")
    cell.wait_stream("blocks")
    told = tell(kernel, 1)
    gate.release()
    assert cell.error["ename"] == "WorkerDied"
    assert [m.content["comm_id"] for m in cell.claim("comm_close")] == ["c1"]
    assert cell.stdout == "blocks\nreleased\n"
    told.wait()
    assert kernel.ask("comm_info_request")["comms"] == {}


@only_capsule("its magic")
def test_a_replaced_worker_closes_its_comms(kernel: Client) -> None:
    kernel.run(LISTEN)
    open_comm(kernel).wait()
    kernel.run("%reset --worker")
    kernel.wait_until(lambda: bool(kernel.unclaimed), "comm_close")
    assert [m.content["comm_id"] for m in kernel.claim_unparented("comm_close")] == ["c1"]
    assert kernel.ask("comm_info_request")["comms"] == {}
    assert kernel.execute("got").ename == "NameError"


def test_exit_in_a_handler_ends_the_kernel(kernel: Client) -> None:
    handle_with(kernel, "get_ipython().ask_exit()")
    tell(kernel, {}).wait()
    kernel.process.wait_exit()
    kernel.abandon()


# --- older libraries -------------------------------------------------------------------------------------------------


def test_the_comms_of_ipykernel_work(kernel: Client) -> None:
    """matplotlib's nbagg and widgets of before 2023 make them."""
    cell = kernel.run(
        "import warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "from ipykernel.comm import Comm\n"
        "old = Comm('old-style', data={'a': 1}, buffers=[b'binary'])\n"
        "old.on_msg(lambda msg: old.send(msg['content']['data'], buffers=msg['buffers']))",
        timeout_s=30,
    )
    (opened,) = cell.claim("comm_open")
    assert (opened.content["target_name"], opened.content["data"], opened.buffers) == (
        "old-style",
        {"a": 1},
        [b"binary"],
    )
    (echo,) = tell(kernel, "back", opened.content["comm_id"], buffers=[b"\x00"]).wait().claim("comm_msg")
    assert (echo.content["data"], echo.buffers) == ("back", [b"\x00"])
    assert kernel.evaluate("old.kernel is get_ipython().kernel") == "True"
    cell = kernel.run("from comm import create_comm\nisinstance(create_comm(comm_id='new'), Comm)")
    assert cell.text == "True"
    cell.claim("comm_open")


def test_importing_ipykernels_kernel_changes_nothing(kernel: Client) -> None:
    kernel.run("import ipykernel.ipkernel, ipykernel.zmqshell", timeout_s=30)
    kernel.run(LISTEN)
    open_comm(kernel).wait()
    tell(kernel, 1).wait()
    assert kernel.evaluate("got") == "[1]"
    kernel.run("from comm import create_comm\nc = create_comm(target_name='t')").claim("comm_open")
    assert kernel.evaluate("isinstance(get_ipython().kernel, ipykernel.ipkernel.IPythonKernel)") == "True"


def test_libraries_may_send_on_the_kernels_iopub(shared_kernel: Client) -> None:
    cell = shared_kernel.run(
        "kernel = get_ipython().kernel\n"
        "_ = kernel.send_response(kernel.iopub_socket, 'stream', {'name': 'stdout', 'text': 'response'})\n"
        "_ = kernel.session.send(kernel.iopub_socket, 'display_data', {'data': {}, 'metadata': {}, 'transient': {}},\n"
        "                        parent=kernel.get_parent(), buffers=[b'raw'])"
    )
    assert cell.stdout == "response"
    (shown,) = cell.claim("display_data")
    assert shown.buffers == [b"raw"]


def test_matplotlibs_interactive_figures_talk_over_a_comm(kernel: Client) -> None:
    cell = kernel.run("%matplotlib notebook\nimport matplotlib.pyplot as plt\nplt.plot([1]);", timeout_s=40)
    (opened,) = cell.claim("comm_open")
    assert opened.content["target_name"] == "matplotlib"
    assert cell.claim("comm_msg") != []
    cell.ignore_outputs()
    told = tell(kernel, json.dumps({"type": "send_image_mode"}), opened.content["comm_id"]).wait(40)
    assert any("image_mode" in str(m.content["data"]) for m in told.claim("comm_msg"))
