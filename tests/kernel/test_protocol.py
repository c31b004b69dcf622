"""Sockets, framing and the requests that the front answers itself.

Issue, point 2: all five channels, HMAC; one session id and one message-id source for the kernel's whole life;
`iopub_welcome` for every subscriber; malformed, unsigned or replayed frames never wedge or kill it.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from .message import pack, unpack
from .process import CHANNELS, connection_info
from .starter import only_capsule

if TYPE_CHECKING:
    from pathlib import Path

    from .client import Client
    from .starter import KernelStarter


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_kernel_info_is_answered_on(channel: str, shared_kernel: Client) -> None:
    info = shared_kernel.ask("kernel_info_request", channel=channel)
    language = info["language_info"]
    assert language["name"] == "python"
    assert language["version"] == ".".join(map(str, sys.version_info[:3]))
    assert language["mimetype"] == "text/x-python"
    assert language["file_extension"] == ".py"
    assert language["pygments_lexer"]
    assert language["nbconvert_exporter"] == "python"
    assert language["codemirror_mode"] == {"name": "ipython", "version": 3}
    assert info["banner"]
    assert all(set(link) == {"text", "url"} for link in info["help_links"])


@only_capsule("ipykernel says 5.3")
def test_one_protocol_version_is_told_everywhere(shared_kernel: Client) -> None:
    exchange = shared_kernel.request("kernel_info_request", {}).wait()
    assert exchange.reply is not None
    assert exchange.content["protocol_version"] == "5.5"
    assert exchange.reply.header["version"] == "5.5"


@only_capsule("ipykernel advertises its debugger and subshells")
def test_only_what_works_is_advertised(shared_kernel: Client) -> None:
    info = shared_kernel.ask("kernel_info_request")
    assert info["implementation"] == "capsule"
    assert info["debugger"] is True
    assert info["supported_features"] == ["debugger", "kernel subshells", "capsule replay"]


def test_heartbeat_echoes(shared_kernel: Client) -> None:
    assert shared_kernel.heartbeat(b"any bytes \x00\xff") == b"any bytes \x00\xff"


@only_capsule("ipykernel greets the first subscriber only")
def test_every_subscriber_is_greeted(kernel: Client, start_kernel: KernelStarter) -> None:
    for _ in range(3):
        # `connect` waits for the greeting.
        start_kernel.connect(kernel.process)


@only_capsule("ipykernel greets the first subscriber only")
def test_each_topic_is_greeted_with_its_name(shared_kernel: Client) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.connect(shared_kernel.process.address("iopub"))
        for topic in ("stream.stdout", "kernel"):
            socket.subscribe(topic)
            welcome = _next_welcome(shared_kernel, socket)
            assert welcome == {"subscription": topic}
            socket.unsubscribe(topic)


def _next_welcome(client: Client, socket: zmq.Socket[bytes]) -> dict[str, object]:
    while socket.poll(10_000):
        message = unpack("iopub", client.key, socket.recv_multipart())
        if message.msg_type == "iopub_welcome":
            return message.content
    raise AssertionError("no iopub_welcome")


def test_replies_go_to_the_client_that_asked(kernel: Client, start_kernel: KernelStarter) -> None:
    if kernel.process_is_ipykernel():
        pytest.skip("ipykernel greets the first subscriber only")
    other = start_kernel.connect(kernel.process)
    for number in range(5):
        first = kernel.start(f"'first', {number}")
        second = other.start(f"'second', {number}")
        assert second.wait().text == f"('second', {number})"
        assert first.wait().text == f"('first', {number})"


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_the_nudge_does_not_wedge_the_kernel(channel: str, shared_kernel: Client) -> None:
    """jupyter_server connects, asks and closes, sometimes while the reply is on its way (ipykernel #1529, #1554)."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for number in range(50):
        with context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(shared_kernel.process.address(channel))
            header = shared_kernel.header("kernel_info_request") | {"session": "nudge", "msg_id": f"n{channel}{number}"}
            frames = pack(shared_kernel.key, [json.dumps(part).encode() for part in (header, {}, {}, {})])
            socket.send_multipart(frames)
            if number % 2:
                assert socket.poll(10_000)
                socket.recv(zmq.NOBLOCK)
    context.destroy(0)
    shared_kernel.ask("kernel_info_request", channel=channel)
    assert shared_kernel.run("'still here'").text == "'still here'"


def malformed_frames(key: bytes, spoiled: dict[str, Any]) -> dict[str, list[bytes]]:
    header = json.dumps(spoiled).encode()
    good = [header, b"{}", b"{}", b"{}"]
    signed = pack(key, good)
    return {
        "nothing": [b""],
        "no delimiter": [b"hello", b"world"],
        "delimiter only": [b"<IDS|MSG>"],
        "signature only": signed[:2],
        "header only": signed[:3],
        "three JSON frames": pack(key, good[:3]),
        "unsigned": [signed[0], b"", *good],
        "wrong signature": [signed[0], b"0" * 64, *good],
        "signature is not hex": [signed[0], b"\xff\xfe", *good],
        "signed with another key": pack(b"another key", good),
        "header is not JSON": pack(key, [b"{not json", *good[1:]]),
        "header is not UTF-8": pack(key, [b'{"msg_id": "\xff"}', *good[1:]]),
        "header is a list": pack(key, [b"[]", *good[1:]]),
        "header is empty": pack(key, [b"{}", *good[1:]]),
        "header is null": pack(key, [b"null", *good[1:]]),
        "msg_type is a number": pack(key, [b'{"msg_id": "x", "msg_type": 7}', *good[1:]]),
        "parent header is a string": pack(key, [header, b'"x"', b"{}", b"{}"]),
        "metadata is not JSON": pack(key, [header, b"{}", b"x", b"{}"]),
        "deep nesting": pack(key, [header, b"{}", b"{}", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"]),
    }


@only_capsule("ipykernel writes its own tracebacks to the cell's stderr")
@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
@pytest.mark.parametrize("name", malformed_frames(b"key", {}))
def test_malformed_frames_are_survived(name: str, channel: str, shared_kernel: Client) -> None:
    spoiled = shared_kernel.header("kernel_info_request")
    # A kernel may answer a signed message with an odd body; that is no subject here.
    shared_kernel.ignored_ids |= {spoiled["msg_id"], "x"}
    shared_kernel.send_frames(channel, malformed_frames(shared_kernel.key, spoiled)[name])
    # An answer to a message that cannot be read goes nowhere; the next message is answered.
    if channel == "stdin":
        cell = shared_kernel.start("input()", allow_stdin=True)
        shared_kernel.answer(shared_kernel.wait_input_request(cell), "well")
        assert cell.wait().text == "'well'"
    else:
        shared_kernel.ask("kernel_info_request", channel=channel)
    assert shared_kernel.run("1 + 1").text == "2"


def test_an_unsigned_request_is_not_carried_out(shared_kernel: Client) -> None:
    shared_kernel.run("intruded = False")
    content = {"code": "intruded = True", "silent": False, "store_history": False}
    header = shared_kernel.header("execute_request")
    parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
    for key in (b"", b"another key"):
        for channel in ("shell", "control"):
            shared_kernel.send_frames(channel, pack(key, parts))
    assert shared_kernel.evaluate("intruded") == "False"


def test_a_replayed_request_is_not_carried_out_again(shared_kernel: Client) -> None:
    shared_kernel.run("runs = 0")
    cell = shared_kernel.run("runs += 1")
    for channel in ("shell", "control"):
        shared_kernel.send_frames(channel, cell.frames)
    assert shared_kernel.evaluate("runs") == "1"


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_an_unknown_message_type_leaves_the_kernel_well(channel: str, shared_kernel: Client) -> None:
    shared_kernel.send_ignored("make_coffee_request", {"sugar": True}, channel=channel)
    shared_kernel.send_ignored("make_coffee", {}, channel=channel)
    shared_kernel.ask("kernel_info_request", channel=channel)
    assert shared_kernel.run("1 + 1").text == "2"


@pytest.mark.parametrize(
    ("msg_type", "content"),
    [
        ("execute_request", {}),
        ("execute_request", {"code": 7}),
        ("execute_request", {"code": None, "silent": "yes"}),
        ("execute_request", {"code": "1", "user_expressions": {"a": 2**70}}),
        ("execute_request", {"code": "1", "user_expressions": {"a": 1, "b": ["c"]}}),
        ("complete_request", {"code": "imp"}),
        ("complete_request", {"code": "imp", "cursor_pos": 10**9}),
        ("complete_request", {"code": "imp", "cursor_pos": -5}),
        ("inspect_request", {"code": "print", "cursor_pos": "end"}),
        ("history_request", {"hist_access_type": "sideways"}),
        ("is_complete_request", {}),
        ("comm_open", {}),
        ("comm_msg", {"comm_id": "nobody"}),
        ("comm_close", {"comm_id": 5}),
        ("connect_request", {"x": 1}),
    ],
)
def test_a_request_with_bad_content_leaves_the_kernel_well(
    msg_type: str, content: dict[str, object], shared_kernel: Client
) -> None:
    if shared_kernel.process_is_ipykernel():
        shared_kernel.send_ignored(msg_type, content)
    elif msg_type.startswith("comm"):
        shared_kernel.request(msg_type, content, expects_reply=False).wait().ignore_outputs()
    else:
        # A request gets its reply, whatever is in it.
        exchange = shared_kernel.request(msg_type, content).wait()
        assert exchange.status in {"ok", "error", "unknown"}
        exchange.ignore_outputs()
    assert shared_kernel.run("1 + 1").text == "2"


@only_capsule("ipykernel sends no reply")
def test_an_execute_request_without_code_is_an_error(shared_kernel: Client) -> None:
    exchange = shared_kernel.request("execute_request", {"silent": False}).wait()
    assert exchange.status == "error"
    assert "code" in exchange.content["evalue"]
    exchange.ignore_outputs()


def test_connect_request_names_the_ports(shared_kernel: Client) -> None:
    reply = shared_kernel.ask("connect_request")
    info = shared_kernel.process.info
    assert {name: reply[name] for name in reply if name.endswith("_port")} == {
        f"{channel}_port": info[f"{channel}_port"] for channel in CHANNELS
    }


def test_comm_info_lists_no_comms_at_first(kernel: Client) -> None:
    assert kernel.ask("comm_info_request", {})["comms"] == {}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("1 + 1", "complete"),
        ("for n in range(3):", "incomplete"),
        ("x = (1,", "incomplete"),
        ("x = ]", "invalid"),
        ("%time", "complete"),
        ("!ls", "complete"),
        ("await f()", "complete"),
        ("async with x as y:\n    pass\n", "complete"),
        ("print('''a", "incomplete"),
    ],
)
def test_is_complete(code: str, status: str, shared_kernel: Client) -> None:
    reply = shared_kernel.request("is_complete_request", {"code": code}).wait().content
    assert reply["status"] == status
    if status == "incomplete":
        assert set(reply["indent"]) <= {" "}


def test_is_complete_tells_the_indent(shared_kernel: Client) -> None:
    reply = shared_kernel.request("is_complete_request", {"code": "for n in range(3):\n    if n:"}).wait().content
    assert reply == {"status": "incomplete", "indent": " " * 8}


@only_capsule("ipykernel reports its one process")
def test_usage_sums_over_all_processes(kernel: Client) -> None:
    kernel.run("block = bytearray(200 * 2**20)")
    usage = kernel.request("usage_request", {}, channel="control").wait().content
    assert usage["kernel_memory"] >= 200 * 2**20
    assert usage["pid"] in kernel.process.processes()
    assert usage["hostname"]
    assert usage["cpu_count"] >= 1
    assert usage["kernel_cpu"] >= 0
    assert usage["host_virtual_memory"]["total"] > usage["kernel_memory"]


@only_capsule("ipykernel sends no result")
def test_control_accepts_execute_requests(shared_kernel: Client) -> None:
    assert shared_kernel.execute("40 + 2", channel="control").text == "42"


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("key", [None, ""], ids=["signed", "empty-key"])
def test_every_transport_works(transport: str, key: str | None, start_kernel: KernelStarter, tmp_path: Path) -> None:
    client = start_kernel(info=connection_info(tmp_path, transport=transport, key=key))
    assert client.run("6 * 7").text == "42"
    assert client.heartbeat() == b"ping"
    client.ask("kernel_info_request", channel="control")
    cell = client.start("input('?')", allow_stdin=True)
    client.answer(client.wait_input_request(cell), "yes")
    assert cell.wait().text == "'yes'"


def test_shutdown_on_shell_is_understood(kernel: Client) -> None:
    kernel.shutdown(channel="shell")
    kernel.process.wait_exit()
