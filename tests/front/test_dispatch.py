"""Requests reach their handlers inside of one bracket: busy, reply, idle, whatever the handler does."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest

from capsule_kernel.front.dispatch import Content, Dispatch, Handler, SlowHandler
from capsule_kernel.front.iopub import IOPub
from capsule_kernel.front.journal import Journal
from capsule_kernel.front.replies import Replies
from capsule_kernel.front.requests import Request, Requests
from capsule_kernel.front.sockets import Channel
from capsule_kernel.wire.jupyter import DELIMITER, Wire

from .channels import RecordingChannel, SimulatedClock

KEY = b"key"


class Front:
    """A dispatch with two channels, and what went out on them and on iopub, in one order."""

    def __init__(
        self, handlers: Mapping[str, Handler] | None = None, slow_handlers: Mapping[str, SlowHandler] | None = None
    ) -> None:
        clock = SimulatedClock()
        self.out: list[tuple[str, str, Any]] = []
        self.executed: list[Request] = []
        self.comms: list[Request] = []
        self.shell, self.control = self._channel("shell", clock), self._channel("control", clock)
        wire = Wire(key=KEY, signature_scheme="hmac-sha256", session="5e55", username="u")
        journal = Journal(cap_bytes=0)
        channel = cast("Channel", self._channel("iopub", clock))
        iopub = IOPub(channel, wire, clock=clock, journal=journal, rate=0, window_ms=1)
        dispatch = Dispatch(
            wire=wire,
            requests=Requests(),
            replies=Replies(wire, clock=clock, journal=journal),
            iopub=iopub,
            execute=self.executed.append,
            comm=self.comms.append,
            knows_subshell=lambda _: False,
            handlers=handlers or {},
            slow_handlers=slow_handlers or {},
            loop=asyncio.get_running_loop(),
        )
        dispatch.start(cast("Channel", self.shell), cast("Channel", self.control))

    def _channel(self, name: str, clock: SimulatedClock) -> RecordingChannel:
        out = self.out

        class Named(RecordingChannel):
            def send(self, frames: list[bytes]) -> None:
                super().send(frames)
                message = self.messages()[-1]
                content = message.json()
                out.append((name, message.msg_type, content.get("execution_state", content)))

        return Named(clock)

    def take(self, msg_type: str, content: bytes = b"{}", *, channel: str = "shell", key: bytes = KEY) -> None:
        """Have a request come in."""
        header = json.dumps({"msg_id": msg_type, "msg_type": msg_type}).encode()
        signed = [header, b"{}", b"{}", content]
        signature = hmac.new(key, b"".join(signed), "sha256").hexdigest().encode()
        getattr(self, channel).receive([b"client", DELIMITER, signature, *signed])


def answer(content: Content) -> Handler:
    return lambda _: content


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("content", [{"a": 1}, b'{"a":1}'])
async def test_a_reply_stands_between_busy_and_idle_on_the_channel_of_its_request(
    content: Content, channel: str
) -> None:
    front = Front({"usage_request": answer(content)})
    front.take("usage_request", channel=channel)
    assert front.out == [
        ("iopub", "status", "busy"),
        (channel, "usage_reply", {"a": 1}),
        ("iopub", "status", "idle"),
    ]
    frames = getattr(front, channel).sent[0][1]
    assert frames[0] == b"client"
    parent = json.loads(frames[4])
    assert parent == {"msg_id": "usage_request", "msg_type": "usage_request"}


async def test_a_request_without_a_reply_has_the_bracket_all_the_same() -> None:
    front = Front({"quiet_request": answer(None)})
    front.take("quiet_request")
    assert front.out == [("iopub", "status", "busy"), ("iopub", "status", "idle")]


def decode_strictly(request: Request) -> Content:
    msgspec.json.decode(request.message.raw_content, type=dict[str, int])
    return {}


DEEP = b'{"a":' + b"[" * 100_000


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a":"x"}', b'{"\xff":1}', DEEP], ids=lambda c: repr(c[:8]))
async def test_a_content_that_is_not_as_it_should_be_is_answered_with_an_error(content: bytes, is_slow: bool) -> None:
    async def slowly(request: Request) -> Content:
        return decode_strictly(request)

    front = Front({} if is_slow else {"a_request": decode_strictly}, {"a_request": slowly} if is_slow else {})
    front.take("a_request", content)
    await asyncio.sleep(0)
    (_, _, busy), (_, msg_type, reply), (_, _, idle) = front.out
    assert (busy, msg_type, idle) == ("busy", "a_reply", "idle")
    assert (reply["status"], reply["ename"]) == ("error", "InvalidRequest")
    assert reply["evalue"].startswith("content of a_request: ")
    assert reply["traceback"] == [f"InvalidRequest: {reply['evalue']}"]


async def test_slow_requests_do_not_keep_others_waiting() -> None:
    may_answer = asyncio.Event()

    async def slowly(_: Request) -> Content:
        await may_answer.wait()
        return {"slow": True}

    front = Front({"fast_request": answer({})}, {"slow_request": slowly})
    front.take("slow_request")
    front.take("fast_request")
    may_answer.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert [entry[1:] for entry in front.out] == [
        ("status", "busy"),
        ("status", "busy"),
        ("fast_reply", {}),
        ("status", "idle"),
        ("slow_reply", {"slow": True}),
        ("status", "idle"),
    ]


async def test_cells_and_comm_messages_go_to_those_who_bracket_them() -> None:
    front = Front()
    for msg_type in ("execute_request", "comm_open", "comm_msg", "comm_close"):
        front.take(msg_type)
    assert [request.message.header.msg_type for request in front.executed] == ["execute_request"]
    assert [request.message.header.msg_type for request in front.comms] == ["comm_open", "comm_msg", "comm_close"]
    assert [request.serial for request in (*front.executed, *front.comms)] == [1, 2, 3, 4]
    assert front.out == []


async def test_what_nobody_knows_or_signed_is_logged_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    front = Front({"known_request": answer({})})
    with caplog.at_level(logging.WARNING):
        front.take("strange_request")
        front.take("known_request", key=b"another key")
        front.shell.receive([b"no delimiter"])
    assert front.out == []
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "a message of unknown type 'strange_request' was dropped",
        "message dropped",
        "message dropped",
    ]
