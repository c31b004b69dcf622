"""One request and everything that the kernel sent because of it, with accessors that remember what was asserted.

An accessor claims what it returns. Whatever nobody claimed fails the test (`Client.finish`): output that no test
expected is a defect, not noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from .message import Message, ProtocolViolationError

if TYPE_CHECKING:
    from .client import Client

DEADLINE_S = 10.0
"""How long a wait may take before the test fails; not a bar for speed."""


@dataclass(kw_only=True, eq=False)
class Exchange:
    """A request with its reply and its iopub messages, in order of arrival."""

    client: Client
    msg_id: str
    msg_type: str
    channel: str
    frames: list[bytes]
    reply: Message | None = None
    iopub: list[Message] = field(default_factory=list)
    late: list[Message] = field(default_factory=list)
    claimed: set[int] = field(default_factory=set)
    busy: Message | None = None
    idle: Message | None = None
    expects_status: bool = True
    expects_reply: bool = True

    # --- arrival -----------------------------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        """Put an arrived message in its place; raises when its place does not exist."""
        if message.channel != "iopub":
            self._take_reply(message)
        elif message.msg_type != "status":
            self._take_output(message)
        elif message.content.get("execution_state") == "busy":
            if self.busy is not None and self.idle is None:
                # Said again after another request's idle: the cell still runs.
                return
            if self.busy is not None or self.iopub:
                msg = f"busy is not the first message of {self!r}"
                raise ProtocolViolationError(msg)
            self.busy = message
        elif message.content.get("execution_state") == "idle":
            if self.busy is None or self.idle is not None:
                msg = f"idle without a busy of its own in {self!r}"
                raise ProtocolViolationError(msg)
            self.idle = message
        else:
            msg = f"{message!r} has a parent or an unknown state"
            raise ProtocolViolationError(msg)

    def _take_reply(self, message: Message) -> None:
        expected = self.msg_type.removesuffix("_request") + "_reply" if self.expects_reply else "nothing"
        if self.reply is not None or message.msg_type != expected or message.channel != self.channel:
            msg = f"{message!r} is not the one {expected} on {self.channel} of {self!r}"
            raise ProtocolViolationError(msg)
        self.reply = message

    def _take_output(self, message: Message) -> None:
        if self.busy is None:
            msg = f"{message!r} before busy"
            raise ProtocolViolationError(msg)
        (self.iopub if self.idle is None else self.late).append(message)

    # --- waiting -----------------------------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether both the reply and idle (where the request has one) have arrived."""
        has_reply = self.reply is not None or not self.expects_reply
        return has_reply and (self.idle is not None or not self.expects_status)

    def wait(self, timeout_s: float = DEADLINE_S) -> Self:
        """Wait for the reply and for idle; checks that the reply was sent before idle."""
        self.client.wait_until(lambda: self.is_done, f"reply and idle of {self!r}", timeout_s)
        if self.reply is not None and self.idle is not None and self.reply.date > self.idle.date:
            msg = f"the reply of {self!r} was made after idle"
            raise ProtocolViolationError(msg)
        return self

    @property
    def content(self) -> dict[str, Any]:
        """The content of the reply, waiting for it."""
        if not self.is_done:
            self.wait()
        assert self.reply is not None
        return self.reply.content

    @property
    def status(self) -> str:
        """The reply's status: ok, error or aborted."""
        return str(self.content["status"])

    # --- claims ------------------------------------------------------------------------------------------------------

    def claim(self, *msg_types: str, name: str | None = None) -> list[Message]:
        """The output messages of these types (all types for none; `name` selects a stream), now asserted."""
        found = [
            message
            for message in self.iopub
            if (not msg_types or message.msg_type in msg_types)
            and (name is None or message.content.get("name") == name)
        ]
        self.claimed.update(id(message) for message in found)
        return found

    def unclaimed(self) -> list[Message]:
        """What arrived and was never asserted."""
        return [message for message in (*self.iopub, *self.late) if id(message) not in self.claimed]

    def ignore_outputs(self) -> Self:
        """Claim everything: for the few tests whose subject is something else entirely."""
        self.claimed.update(id(message) for message in (*self.iopub, *self.late))
        return self

    def __repr__(self) -> str:
        """What was asked and what has come, for a failure's text."""
        states = [name for name in ("busy", "reply", "idle") if getattr(self, name) is not None]
        return f"<{self.msg_type} {self.msg_id} on {self.channel}: {', '.join(states) or 'nothing yet'}; {self.iopub}>"


@dataclass(kw_only=True, eq=False, repr=False)
class Cell(Exchange):
    """An execute_request; its outputs by kind."""

    code: str
    silent: bool = False

    def wait(self, timeout_s: float = DEADLINE_S) -> Self:
        """As for every request; execute_input stands before every output, and only there."""
        super().wait(timeout_s)
        inputs = [n for n, message in enumerate(self.iopub) if message.msg_type == "execute_input"]
        expected = [] if self.silent or self.status == "aborted" else [0]
        if inputs != expected:
            msg = f"execute_input at {inputs} instead of {expected} in {self!r}"
            raise ProtocolViolationError(msg)
        for message in self.claim("execute_input"):
            assert message.content["code"] == self.code
            assert isinstance(message.content["execution_count"], int)
        return self

    @property
    def execution_count(self) -> int:
        """The count in the reply."""
        return int(self.content["execution_count"])

    @property
    def stdout(self) -> str:
        """Everything on the stream stdout, joined."""
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        """Everything on the stream stderr, joined."""
        return self._stream("stderr")

    def _stream(self, name: str) -> str:
        if not self.is_done:
            self.wait()
        return self.stream_so_far(name)

    def stream_so_far(self, name: str) -> str:
        """What has arrived of a stream, without waiting."""
        return "".join(str(message.content["text"]) for message in self.claim("stream", name=name))

    @property
    def result(self) -> dict[str, Any]:
        """The data of the one execute_result."""
        self.wait()
        (message,) = self.claim("execute_result")
        assert message.content["execution_count"] == self.execution_count
        data = message.content["data"]
        assert isinstance(data, dict)
        return data

    @property
    def text(self) -> str:
        """text/plain of the one execute_result."""
        return str(self.result["text/plain"])

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The contents of display_data and update_display_data, in order, with their type under "msg_type"."""
        self.wait()
        found = self.claim("display_data", "update_display_data")
        return [message.content | {"msg_type": message.msg_type} for message in found]

    @property
    def error(self) -> dict[str, Any]:
        """The content of the one error message; checks that the reply says the same."""
        self.wait()
        errors = self.claim("error")
        assert len(errors) == 1, f"one error expected: {self!r}"
        content = errors[0].content
        reply = self.content
        assert reply["status"] == "error", reply
        assert (reply["ename"], reply["evalue"]) == (content["ename"], content["evalue"])
        assert reply["traceback"] == content["traceback"]
        return content

    @property
    def ename(self) -> str:
        """The error's class name."""
        return str(self.error["ename"])

    @property
    def traceback(self) -> str:
        """The error's traceback as one text, without colours."""
        return plain("\n".join(self.error["traceback"]))

    def wait_stream(self, wanted: str, *, name: str = "stdout", timeout_s: float = DEADLINE_S) -> str:
        """Wait, while the cell runs, until a stream contains a text; the stream so far."""
        waiting_for = f"{wanted!r} on {name} of {self!r}"
        self.client.wait_until(lambda: wanted in self.stream_so_far(name), waiting_for, timeout_s)
        return self.stream_so_far(name)

    def late_stream(self, name: str = "stdout") -> str:
        """What has arrived of a stream after idle."""
        found = [m for m in self.late if m.msg_type == "stream" and m.content["name"] == name]
        self.claimed.update(id(message) for message in found)
        return "".join(str(message.content["text"]) for message in found)

    def wait_late_stream(self, wanted: str, *, name: str = "stdout", timeout_s: float = DEADLINE_S) -> str:
        """Wait until a stream contains a text after the cell is idle; the late part of the stream."""
        waiting_for = f"{wanted!r} on {name} after idle of {self!r}"
        self.client.wait_until(lambda: wanted in self.late_stream(name), waiting_for, timeout_s)
        return self.late_stream(name)

    def wait_any_stream(self, wanted: str, *, name: str = "stdout", timeout_s: float = DEADLINE_S) -> str:
        """Wait until a stream contains a text, before or after idle; all of the stream."""

        def everything() -> str:
            return self.stream_so_far(name) + self.late_stream(name)

        self.client.wait_until(lambda: wanted in everything(), f"{wanted!r} on {name} of {self!r}", timeout_s)
        return everything()

    def succeeded(self) -> Self:
        """Wait and assert that the reply's status is ok."""
        self.wait()
        assert self.status == "ok", f"{plain(chr(10).join(self.content.get('traceback', [])))}\n{self!r}"
        return self


def plain(text: str) -> str:
    """A text without ANSI colour sequences."""
    pieces = text.split("\x1b[")
    return pieces[0] + "".join(piece.partition("m")[2] for piece in pieces[1:])
