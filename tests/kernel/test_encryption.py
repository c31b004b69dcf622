"""CurveZMQ: with keys in the connection file all five channels are encrypted, and whoever has no keys hears nothing.

Source: jupyter_client 8.10, `transport_encryption`; the kernelspec declares `supported_encryption`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jupyter_client
import pytest
import zmq

from .client import START_DEADLINE_S
from .message import pack
from .process import KernelProcess, connection_info

if TYPE_CHECKING:
    from pathlib import Path

    from .client import Client
    from .jupyter import Installed
    from .starter import KernelStarter

TRANSPORTS = ("tcp", "ipc")


def keys() -> dict[str, Any]:
    public, secret = zmq.curve_keypair()
    return {"curve_publickey": public.decode(), "curve_secretkey": secret.decode()}


@pytest.fixture(params=TRANSPORTS)
def encrypted(request: pytest.FixtureRequest, start_kernel: KernelStarter) -> Client:
    directory = start_kernel.directory / "encrypted"
    directory.mkdir()
    return start_kernel(info=connection_info(directory, transport=request.param) | keys())


def test_all_channels_work_encrypted(encrypted: Client) -> None:
    assert encrypted.run("print('on iopub')\n6 * 7").ignore_outputs().status == "ok"
    assert encrypted.heartbeat(b"beat") == b"beat"
    assert encrypted.ask("kernel_info_request", channel="control")["status"] == "ok"
    cell = encrypted.start("input('?')", allow_stdin=True)
    encrypted.answer(encrypted.wait_input_request(cell), "yes")
    assert cell.text == "'yes'"


def nothing_comes(encrypted: Client, **options: Any) -> None:
    """Ask on all channels with `options` set on the sockets: no connection is ever accepted."""
    process = encrypted.process
    key = str(process.info["key"]).encode()
    header = encrypted.header("kernel_info_request")
    request = pack(key, [json.dumps(part).encode() for part in (header, {}, {}, {})])
    kinds = {"shell": zmq.DEALER, "control": zmq.DEALER, "stdin": zmq.DEALER, "iopub": zmq.SUB, "hb": zmq.DEALER}
    events = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.DISCONNECTED
    events |= zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_AUTH
    with zmq.Context() as context:
        for channel, kind in kinds.items():
            with context.socket(kind) as sock:
                sock.linger = 0
                for name, value in options.items():
                    setattr(sock, name, value)
                monitor = sock.get_monitor_socket(events)
                monitor.linger = 0
                if kind == zmq.SUB:
                    sock.subscribe(b"")
                sock.connect(process.address(channel))
                if kind == zmq.DEALER:
                    sock.send_multipart(request, zmq.DONTWAIT)
                # The other end hangs up where a handshake would have been.
                assert monitor.poll(int(START_DEADLINE_S * 1000)), f"no end of the connection to {channel}"
                number = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
                assert zmq.Event(number) is not zmq.Event.HANDSHAKE_SUCCEEDED
                assert not sock.poll(0), f"something came on {channel}"
                sock.disable_monitor()
                monitor.close()
    assert encrypted.ask("kernel_info_request")["status"] == "ok"


def test_who_does_not_encrypt_hears_nothing(encrypted: Client) -> None:
    nothing_comes(encrypted)


def test_who_knows_another_key_hears_nothing(encrypted: Client) -> None:
    public, secret = zmq.curve_keypair()
    nothing_comes(encrypted, curve_serverkey=public, curve_publickey=public, curve_secretkey=secret)


@pytest.mark.parametrize("policy", ["auto", "required"])
def test_jupyter_client_encrypts_when_it_is_told_to(policy: str, installed: Installed) -> None:
    if jupyter_client.version_info < (8, 10):
        pytest.skip("jupyter_client encrypts from 8.10 on")
    manager = installed.manager()
    manager.transport_encryption = policy
    manager.start_kernel(env=installed.environment, cwd=str(installed.directory))
    try:
        client = manager.client()
        assert client.curve_publickey
        client.start_channels()
        client.wait_for_ready(START_DEADLINE_S)
        reply = client.execute_interactive("assert 6 * 7 == 42", timeout=START_DEADLINE_S)
        assert reply["content"]["status"] == "ok"
        assert client.is_alive()
        client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@pytest.mark.parametrize(
    "wrong",
    [
        {"curve_publickey": "k" * 40},
        {"curve_publickey": "short", "curve_secretkey": "short"},
        keys() | {"curve_publickey": keys()["curve_publickey"]},
    ],
)
def test_keys_that_are_none_end_the_start_and_are_not_left_out(wrong: dict[str, str], tmp_path: Path) -> None:
    process = KernelProcess.start(tmp_path / "kernel", info=connection_info(tmp_path) | wrong)
    try:
        assert process.wait_exit() == 1
        assert "capsule: " in process.log()
        assert "k" * 40 not in process.log()
    finally:
        process.destroy()
