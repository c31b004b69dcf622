"""Output survives a reconnect: what a client was not there for, it can have afterwards (`docs/reconnect.md`).

Issue: the front keeps a bounded journal of the outputs of each running request; a client that comes back while the cell
runs can have them replayed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from capsule_kernel.cli import main
from capsule_kernel.errors import ReplayUnavailable
from capsule_kernel.replay import Cell, replay, replay_async

from .client import Client
from .exchange import Exchange, plain
from .starter import only_capsule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jupyter_client.blocking.client import BlockingKernelClient
    from jupyter_client.manager import KernelManager

    from .jupyter import Installed
    from .starter import KernelStarter

pytestmark = only_capsule("capsule_replay_request")


def kept(client: Client, channel: str = "control", **content: Any) -> list[dict[str, Any]]:
    found = client.ask("capsule_replay_request", content, channel=channel)["requests"]
    assert isinstance(found, list)
    return found


def blocking_cell(client: Client, before: str, after: str = "") -> tuple[str, Path]:
    """Start a cell that runs `before`, and waits for somebody to write into a fifo; its msg_id, and the fifo."""
    gate = client.process.directory / "gate"
    os.mkfifo(gate)
    code = f"{before}\nprint('running', flush=True)\nopen({str(gate)!r}).read()\n{after}"
    cell = client.start(code, metadata={"cellId": "cell-7"})
    cell.wait_stream("running\n")
    cell.ignore_outputs()
    return cell.msg_id, gate


@pytest.mark.parametrize("channel", ["control", "shell"])
def test_a_client_that_comes_back_has_what_a_running_cell_has_said(channel: str, start_kernel: KernelStarter) -> None:
    process = start_kernel.process()
    first = start_kernel.connect(process)
    before = "print('one')\nfrom IPython.display import display\ndisplay({'text/plain': 'shown'}, raw=True)"
    msg_id, gate = blocking_cell(first, before, "print('after')\n6 * 7")
    first.abandon()
    first.healthy = False
    second = start_kernel.connect(process)
    (entry,) = kept(second, channel)
    assert (entry["msg_id"], entry["state"], entry["reply"]) == (msg_id, "running", None)
    assert entry["metadata"] == {"cellId": "cell-7"}
    assert entry["header"]["msg_type"] == "execute_request"
    types = [output["msg_type"] for output in entry["outputs"]]
    assert types == ["execute_input", "stream", "display_data", "stream"]
    assert entry["outputs"][1]["content"] == {"name": "stdout", "text": "one\n"}
    # From here on it listens: the parent of what comes is the request that it has been told.
    second.ignored_ids.add(msg_id)
    gate.write_text("on")
    second.run("pass")
    (entry, _) = kept(second)
    assert (entry["state"], entry["reply"]["status"]) == ("finished", "ok")
    assert entry["reply_metadata"]["status"] == "ok"
    texts = [output["content"].get("text") for output in entry["outputs"]]
    assert texts == [None, "one\n", None, "running\n", "after\n", None]
    assert entry["outputs"][-1]["content"]["data"] == {"text/plain": "42"}


def test_one_request_is_named_and_an_unknown_one_is_not_there(kernel: Client) -> None:
    first, second = kernel.run("print(1)"), kernel.run("print(2)")
    assert (first.stdout, second.stdout) == ("1\n", "2\n")
    (entry,) = kept(kernel, msg_id=second.msg_id)
    assert entry["msg_id"] == second.msg_id
    assert kept(kernel, msg_id="nobody's") == []
    assert "capsule replay" in kernel.ask("kernel_info_request")["supported_features"]


def test_queued_failed_and_aborted_cells_are_told_apart(kernel: Client) -> None:
    msg_id, gate = blocking_cell(kernel, "pass", "1 / 0")
    behind = kernel.start("print('never')")
    assert [entry["state"] for entry in kept(kernel)] == ["running", "queued"]
    gate.write_text("on")
    assert behind.status == "aborted"
    kernel.exchanges[msg_id].wait()
    kernel.exchanges[msg_id].ignore_outputs()
    assert [entry["reply"]["status"] for entry in kept(kernel)] == ["error", "aborted"]
    assert kept(kernel)[0]["outputs"][-1]["content"]["ename"] == "ZeroDivisionError"


def test_buffers_come_along(kernel: Client) -> None:
    code = "from comm import create_comm\nc = create_comm('t', data={}, buffers=[b'\\x00\\x01', b'two'])\nc.send(1)"
    cell = kernel.run(code)
    assert len(cell.claim("comm_open", "comm_msg")) == 2
    asked = kernel.request("capsule_replay_request", {}, channel="control").wait()
    assert asked.reply is not None
    assert asked.reply.buffers == [b"\x00\x01", b"two"]
    outputs = asked.content["requests"][0]["outputs"]
    assert [output["buffers"] for output in outputs] == [[], [0, 1], []]


def test_output_after_idle_is_kept_too(kernel: Client) -> None:
    cell = kernel.run(
        "import threading\ngate = threading.Event()\n"
        "threading.Thread(target=lambda: (gate.wait(), print('late', flush=True))).start()"
    )
    kernel.run("gate.set()")
    cell.wait_late_stream("late\n")
    (entry,) = kept(kernel, msg_id=cell.msg_id)
    assert entry["outputs"][-1]["content"]["text"] == "late\n"


def test_what_is_over_the_cap_goes_oldest_first_and_is_counted(start_kernel: KernelStarter) -> None:
    client = start_kernel("--CapsuleKernel.journal_cap_bytes=100000")
    earlier = client.run("print('gone by then')")
    assert earlier.stdout == "gone by then\n"
    cell = client.run("for n in range(100): print(str(n) * 2000, flush=True)", timeout_s=30)
    assert len(cell.stdout) > 300_000
    (entry,) = kept(client, msg_id=cell.msg_id)
    texts = [output["content"]["text"] for output in entry["outputs"]]
    assert texts[-1].endswith("99" * 2000 + "\n")
    assert 50_000 < sum(map(len, texts)) <= 100_000
    assert entry["dropped"] > 0
    (entry,) = kept(client, msg_id=earlier.msg_id)
    assert (entry["outputs"], entry["dropped"], entry["reply"]["status"]) == ([], 2, "ok")


def test_none_is_kept_without_a_cap(start_kernel: KernelStarter) -> None:
    client = start_kernel("--CapsuleKernel.journal_cap_bytes=0")
    assert client.run("1 + 1").text == "2"
    assert kept(client) == []


def test_a_content_that_is_not_understood_is_an_error(kernel: Client) -> None:
    asked = kernel.request("capsule_replay_request", {"msg_id": 5}, channel="control").wait()
    assert (asked.content["status"], asked.content["ename"]) == ("error", "InvalidRequest")


def test_a_client_takes_over_its_own_identity(start_kernel: KernelStarter) -> None:
    """The old connection may look alive for a long time: a laptop that was asleep."""
    process = start_kernel.process()
    first = start_kernel.connect(process)
    first.run("kept = 1")
    second = Client(process, identity=first.identity)
    with second:
        assert second.run("kept").text == "1"
        cell = second.start("input('?')", allow_stdin=True)
        second.answer(second.wait_input_request(cell), "yes")
        assert cell.text == "'yes'"
        second.finish()
    first.abandon()
    first.healthy = False


# --- published once more ---------------------------------------------------------------------------------------------


def test_published_again_it_replaces_what_was_there(start_kernel: KernelStarter) -> None:
    process = start_kernel.process()
    first = start_kernel.connect(process)
    before = "for n in range(3): print(n, flush=True)\nfrom comm import create_comm\ncreate_comm('t', data={})"
    msg_id, gate = blocking_cell(first, before)
    second = start_kernel.connect(process)
    kept(second, msg_id=msg_id, republish=True)
    cell = first.exchanges[msg_id]
    gate.write_text("on")
    # Not as a cell, which has its input once.
    Exchange.wait(cell)
    # As the first client had it, and once more after a clear_output: without the comm, the streams in one piece.
    types = [message.msg_type for message in cell.iopub]
    at = types.index("clear_output")
    assert types[at:] == ["clear_output", "execute_input", "stream", "execute_result"]
    again = cell.iopub[at:-1]
    assert again[0].content == {"wait": True}
    assert again[2].content == {"name": "stdout", "text": "0\n1\n2\nrunning\n"}
    assert all(message.metadata["capsule"] == {"replayed": True} for message in again)
    assert not any("capsule" in message.metadata for message in cell.iopub[:at])
    cell.claimed.update(map(id, cell.iopub))
    # What was sent again was not kept again.
    (entry,) = kept(first, msg_id=msg_id)
    assert [output["msg_type"] for output in entry["outputs"]].count("execute_input") == 1


# --- for programs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def manager(installed: Installed) -> Iterator[KernelManager]:
    manager = installed.manager()
    manager.start_kernel(env=installed.environment, cwd=str(installed.directory))
    yield manager
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def connected(manager: KernelManager) -> BlockingKernelClient:
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=30)
    return client


def test_a_program_has_the_outputs_as_in_a_notebook(manager: KernelManager) -> None:
    first = connected(manager)
    code = (
        "from IPython.display import clear_output, display\n"
        "print('cleared'); clear_output(wait=True)\n"
        "print('a'); print('b')\n"
        "handle = display('first', display_id=True); handle.update('second')\n"
        "40 + 2"
    )
    msg_id = first.execute(code, reply=True, timeout=20)["parent_header"]["msg_id"]
    first.stop_channels()
    second = connected(manager)
    (cell,) = replay(second, msg_id)
    second.stop_channels()
    assert (cell.state, cell.reply["status"] if cell.reply else None, cell.dropped) == ("finished", "ok", 0)
    assert cell.cell_id is None
    assert cell.outputs() == [
        {"output_type": "stream", "name": "stdout", "text": "a\nb\n"},
        {"output_type": "display_data", "data": {"text/plain": "'second'"}, "metadata": {}},
        {"output_type": "execute_result", "data": {"text/plain": "42"}, "metadata": {}, "execution_count": 1},
    ]


async def test_an_asynchronous_program_too(installed: Installed) -> None:
    manager = installed.async_manager()
    await manager.start_kernel(env=installed.environment, cwd=str(installed.directory))
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=30)
        reply = await client.execute("print('said')\n1 / 0", reply=True, timeout=20)
        (cell,) = await replay_async(client, reply["parent_header"]["msg_id"])
        assert [output["output_type"] for output in cell.outputs()] == ["stream", "error"]
        assert cell.outputs()[1]["ename"] == "ZeroDivisionError"
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


def test_the_command_shows_outputs_and_puts_them_into_the_notebook(
    manager: KernelManager, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = connected(manager)
    cells = [new_code_cell("print('first')", id="one"), new_code_cell("1 / 0", id="two"), new_code_cell("", id="three")]
    for cell in cells[:2]:
        message = client.session.msg("execute_request", {"code": cell.source}, metadata={"cellId": cell.id})
        client.shell_channel.send(message)
    while client.get_shell_msg(timeout=20)["parent_header"]["msg_id"] != message["header"]["msg_id"]:
        continue
    client.stop_channels()
    assert main(["replay", manager.connection_file]) == 0
    shown = plain(capsys.readouterr().out)
    assert shown.startswith("--- [1] finished: print('first')\nfirst\n--- [2] finished: 1 / 0\n")
    assert "ZeroDivisionError: division by zero" in shown
    path = tmp_path / "lost.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    assert main(["replay", manager.connection_file, "--into", str(path)]) == 0
    assert "2 cells" in capsys.readouterr().out
    filled = nbformat.read(path, as_version=4)
    assert [[output.output_type for output in cell.outputs] for cell in filled.cells] == [["stream"], ["error"], []]
    assert [cell.execution_count for cell in filled.cells] == [1, 2, None]
    assert main(["replay", str(tmp_path / "none.json")]) == 1
    assert "capsule: capsule_replay_request failed: connection file" in capsys.readouterr().err


def test_a_kernel_that_does_not_know_it_is_named(manager: KernelManager) -> None:
    client = connected(manager)
    client.session.key = b"another"
    with pytest.raises(ReplayUnavailable, match=r"within 0\.5 s"):
        replay(client, timeout_s=0.5)
    client.stop_channels()


def test_a_cell_that_has_put_out_nothing_has_no_outputs() -> None:
    cell = Cell(msg_id="1", header={}, metadata={}, state="queued", messages=[], dropped=0, reply=None)
    assert cell.outputs() == []
