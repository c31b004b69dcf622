"""A Jupyter client that does as little as it can, so that the kernel is what is measured.

It signs what it sends and trusts what it receives; it looks for ids in raw frames and decodes JSON outside of timed
regions only. Wire format: "Messaging in Jupyter", sections "The wire protocol" and "General message format".
"""

from __future__ import annotations

import hmac
import json
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import zmq

from .process import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .process import KernelProcess

_DELIMITER = b"<IDS|MSG>"
DEADLINE_S = 30.0
_PATIENCE_S = 1.0


class Message(NamedTuple):
    """A received message: raw JSON frames, and when it arrived (`time.perf_counter`, seconds)."""

    at: float
    header: bytes
    parent: bytes
    content: bytes
    size: int
    """Bytes of header, parent header, metadata, content and buffers: what jupyter_server counts."""

    @property
    def msg_type(self) -> str:
        """The header's `msg_type`."""
        return str(json.loads(self.header)["msg_type"])

    def json(self) -> dict[str, Any]:
        """The decoded content."""
        content: dict[str, Any] = json.loads(self.content)
        return content

    def is_idle_for(self, msg_id: bytes) -> bool:
        """Whether this is the idle status that ends the request."""
        return msg_id in self.parent and b'"status"' in self.header and b'"idle"' in self.content


class Client:
    """Four channels to one kernel. `close()` when done (or `with`).

    High-water marks are libzmq's defaults, as with jupyter_client: what a kernel drops for such a client is lost.
    """

    def __init__(self, process: KernelProcess, *, reconnect_ivl_ms: int = 1) -> None:
        self.process = process
        self._session = uuid.uuid4().hex
        self._count = 0
        self._date = datetime.now(UTC).isoformat()
        connection = process.connection
        self._hmac = hmac.new(str(connection["key"]).encode(), digestmod="sha256")
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()

        def connect(kind: int, channel: str) -> zmq.Socket[bytes]:
            made: zmq.Socket[bytes] = context.socket(kind)
            made.setsockopt(zmq.IDENTITY, self._session.encode())
            made.setsockopt(zmq.RECONNECT_IVL, reconnect_ivl_ms)
            made.setsockopt(zmq.LINGER, 0)
            made.setsockopt(zmq.RCVTIMEO, int(_PATIENCE_S * 1000))
            made.connect(f"tcp://127.0.0.1:{connection[f'{channel}_port']}")
            return made

        self.shell = connect(zmq.DEALER, "shell")
        self.control = connect(zmq.DEALER, "control")
        self.stdin = connect(zmq.DEALER, "stdin")
        self.iopub = connect(zmq.SUB, "iopub")
        self.iopub.setsockopt(zmq.SUBSCRIBE, b"")

    def close(self) -> None:
        """Close the sockets."""
        for each in (self.shell, self.control, self.stdin, self.iopub):
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Requests

    def send(self, to: zmq.Socket[bytes], msg_type: str, content: bytes = b"{}") -> bytes:
        """Send a request; return its message id."""
        self._count += 1
        msg_id = f"{self._session}_{self._count}"
        header = (
            f'{{"msg_id":"{msg_id}","session":"{self._session}","username":"bench","date":"{self._date}",'
            f'"msg_type":"{msg_type}","version":"5.4"}}'
        ).encode()
        signature = self._hmac.copy()
        signature.update(header + b"{}{}" + content)
        to.send_multipart((_DELIMITER, signature.hexdigest().encode(), header, b"{}", b"{}", content))
        return msg_id.encode()

    def send_execute(self, code: str, *, allow_stdin: bool = False) -> bytes:
        """Send an execute_request that stores history, as a notebook does; return its message id."""
        content = (
            f'{{"code":{json.dumps(code)},"silent":false,"store_history":true,"user_expressions":{{}},'
            f'"allow_stdin":{"true" if allow_stdin else "false"},"stop_on_error":true}}'
        )
        return self.send(self.shell, "execute_request", content.encode())

    def interrupt(self) -> None:
        """Interrupt as the kernel's spec asks for."""
        if self.process.kernel.interrupt_mode == "signal":
            self.process.interrupt_by_signal()
        else:
            self.send(self.control, "interrupt_request")

    # Answers

    def receive(self, source: zmq.Socket[bytes], deadline: float | None = None) -> Message:
        """The next message; `deadline` is a `time.perf_counter` value, by default DEADLINE_S after the call."""
        frames = self._receive_frames(source, deadline)
        at = time.perf_counter()
        start = frames.index(_DELIMITER) + 2
        header, parent, _, content = frames[start : start + 4]
        return Message(at, header, parent, content, sum(len(frame) for frame in frames[start:]))

    def _receive_frames(self, source: zmq.Socket[bytes], deadline: float | None) -> list[bytes]:
        begin = time.perf_counter()
        end = begin + DEADLINE_S if deadline is None else deadline
        while True:
            # Without a deadline of the caller's: one blocking call with the socket's own time-out, the cheapest way.
            if deadline is None or source.poll(max(0, int(min(_PATIENCE_S, end - time.perf_counter()) * 1000))):
                with suppress(zmq.Again):
                    return source.recv_multipart()
            self.process.check_alive()
            if time.perf_counter() >= end:
                msg = f"no answer within {end - begin:.1f} s"
                raise KernelError(msg)

    def wait_idle(self, msg_id: bytes, deadline: float | None = None) -> None:
        """Read iopub up to the request's idle."""
        while not self.receive(self.iopub, deadline).is_idle_for(msg_id):
            pass

    def wait_reply(self, source: zmq.Socket[bytes], msg_id: bytes, deadline: float | None = None) -> Message:
        """Read a channel up to the request's reply."""
        while msg_id not in (message := self.receive(source, deadline)).parent:
            pass
        return message

    def output_until_idle(self, msg_id: bytes, deadline: float) -> Iterator[Message]:
        """The request's iopub messages, the idle included."""
        while True:
            message = self.receive(self.iopub, deadline)
            if msg_id in message.parent:
                yield message
                if message.is_idle_for(msg_id):
                    return

    # Conversations

    def wait_ready(self, deadline_s: float = DEADLINE_S) -> None:
        """Until shell answers and iopub is connected: a request's idle has been seen."""
        end = time.perf_counter() + deadline_s
        while True:
            msg_id = self.send(self.shell, "kernel_info_request")
            try:
                self.wait_idle(msg_id, time.perf_counter() + 0.2)
            except KernelError:
                self.process.check_alive()
                if time.perf_counter() > end:
                    msg = f"not ready within {deadline_s:g} s"
                    raise KernelError(msg) from None
            else:
                self.wait_reply(self.shell, msg_id)
                return

    def execute(self, code: str) -> float:
        """Execute, and return the seconds from the request until both reply and idle are here."""
        start = time.perf_counter()
        msg_id = self.send_execute(code)
        self.wait_idle(msg_id)
        self.wait_reply(self.shell, msg_id)
        return time.perf_counter() - start

    def execute_ok(self, code: str) -> None:
        """Execute a preparation; raise KernelError if it fails."""
        msg_id = self.send_execute(code)
        self.wait_idle(msg_id)
        reply = self.wait_reply(self.shell, msg_id).json()
        if reply["status"] != "ok":
            msg = f"{code!r} failed: {reply}"
            raise KernelError(msg)
