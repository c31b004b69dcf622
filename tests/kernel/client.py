"""A strict Jupyter client on raw pyzmq.

It checks each message that arrives (signature, header, one session id, unique message ids, parents that exist), the
order within each request (busy, outputs, idle; one reply), and at the end of a test that nothing is left that no test
asserted.
"""

from __future__ import annotations

import json
import signal
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import zmq

from .exchange import DEADLINE_S, Cell, Exchange
from .message import Message, ProtocolViolationError, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from .process import KernelProcess

START_DEADLINE_S = 30.0
BATCH = 500
DEALERS = ("shell", "control", "stdin")


class Client:
    """Five channels to one kernel; use as a context manager."""

    def __init__(self, process: KernelProcess, *, identity: bytes | None = None) -> None:
        """Prepare; `connect` opens the sockets."""
        self.process = process
        self.key = str(process.info["key"]).encode()
        self.session = uuid.uuid4().hex
        self.identity = identity or self.session.encode()
        self.kernel_session: str | None = None
        self.exchanges: dict[str, Exchange] = {}
        self.unclaimed: list[Message] = []
        self.welcomes: list[str] = []
        self.ignored_ids: set[str] = set()
        self.input_requests: list[Message] = []
        self.seen_ids: set[tuple[str, str]] = set()
        self.healthy = True
        self._count = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()

    def __enter__(self) -> Self:
        """Connect."""
        return self.connect()

    def __exit__(self, *_: object) -> None:
        """Close the sockets."""
        self.close()

    def connect(self) -> Self:
        """Open the channels and wait until the kernel greets the subscription and answers."""
        for channel in DEALERS:
            dealer = self._open(channel, zmq.DEALER)
            dealer.identity = self.identity
        self._open("iopub", zmq.SUB).subscribe(b"")
        for channel, each in self._sockets.items():
            each.connect(self.process.address(channel))
        # "iopub_welcome": a kernel with an XPUB socket greets each subscription (JEP 65).
        self.wait_until(lambda: "" in self.welcomes, "iopub_welcome", START_DEADLINE_S)
        self.request("kernel_info_request", {}).wait(START_DEADLINE_S)
        return self

    def _open(self, channel: str, kind: int) -> zmq.Socket[bytes]:
        each = self._context.socket(kind)
        each.linger = 0
        each.set_hwm(0)
        each.reconnect_ivl = 5
        self._encrypt(each)
        self._sockets[channel] = each
        self._poller.register(each, zmq.POLLIN)
        return each

    def _encrypt(self, each: zmq.Socket[bytes]) -> None:
        """Use the connection file's keys, if it has some, as jupyter_client does: the server's pair is the client's."""
        info = self.process.info
        if "curve_publickey" in info:
            each.curve_secretkey = info["curve_secretkey"].encode()
            each.curve_publickey = each.curve_serverkey = info["curve_publickey"].encode()

    def is_open(self) -> bool:
        """Whether the sockets are open."""
        return bool(self._sockets)

    def close(self) -> None:
        """Close the sockets; the kernel is left as it is."""
        for each in self._sockets.values():
            each.close(0)
        self._sockets.clear()
        self._context.destroy(0)

    # --- sending -----------------------------------------------------------------------------------------------------

    def header(self, msg_type: str, **extra: str) -> dict[str, Any]:
        """A new header of this client."""
        self._count += 1
        return {
            "msg_id": f"{self.session}_{self._count}",
            "session": self.session,
            "username": "tester",
            "date": datetime.now(UTC).isoformat(),
            "msg_type": msg_type,
            "version": "5.5",
            **extra,
        }

    def send(
        self,
        msg_type: str,
        content: dict[str, Any],
        *,
        channel: str = "shell",
        metadata: dict[str, Any] | None = None,
        parent: dict[str, Any] | None = None,
        buffers: list[bytes] | None = None,
        subshell: str | None = None,
    ) -> tuple[str, list[bytes]]:
        """Send a signed message, to a subshell where one is named; its msg_id and frames."""
        header = self.header(msg_type, **({} if subshell is None else {"subshell_id": subshell}))
        parts = [json.dumps(part).encode() for part in (header, parent or {}, metadata or {}, content)]
        frames = pack(self.key, parts, buffers)
        self.send_frames(channel, frames)
        return str(header["msg_id"]), frames

    def send_frames(self, channel: str, frames: list[bytes]) -> None:
        """Send frames as they are: unsigned, replayed, malformed ones."""
        self._sockets[channel].send_multipart(frames)

    def send_ignored(self, msg_type: str, content: dict[str, Any], *, channel: str = "shell") -> None:
        """Send a message whose answers, if there are any, are no subject of the test."""
        msg_id, _ = self.send(msg_type, content, channel=channel)
        self.ignored_ids.add(msg_id)

    def request(
        self,
        msg_type: str,
        content: dict[str, Any],
        *,
        channel: str = "shell",
        expects_status: bool = True,
        expects_reply: bool = True,
        **kw: Any,
    ) -> Exchange:
        """Send a request; the exchange to wait for. Comm messages have a status and no reply."""
        msg_id, frames = self.send(msg_type, content, channel=channel, **kw)
        exchange = Exchange(
            client=self,
            msg_id=msg_id,
            msg_type=msg_type,
            channel=channel,
            frames=frames,
            expects_status=expects_status,
            expects_reply=expects_reply,
        )
        self.exchanges[msg_id] = exchange
        return exchange

    def ask(self, msg_type: str, content: dict[str, Any] | None = None, *, channel: str = "shell") -> dict[str, Any]:
        """Send a request and wait; the reply's content, whose status is ok. No iopub output is expected."""
        exchange = self.request(msg_type, content or {}, channel=channel).wait()
        assert exchange.content["status"] == "ok", exchange.content
        return exchange.content

    def start(
        self,
        code: str,
        *,
        silent: bool = False,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        stop_on_error: bool = True,
        channel: str = "shell",
        metadata: dict[str, Any] | None = None,
        subshell: str | None = None,
    ) -> Cell:
        """Send an execute_request without waiting."""
        content = {
            "code": code,
            "silent": silent,
            "store_history": store_history,
            "user_expressions": user_expressions or {},
            "allow_stdin": allow_stdin,
            "stop_on_error": stop_on_error,
        }
        msg_id, frames = self.send("execute_request", content, channel=channel, metadata=metadata, subshell=subshell)
        cell = Cell(
            client=self,
            msg_id=msg_id,
            msg_type="execute_request",
            channel=channel,
            frames=frames,
            code=code,
            silent=silent,
        )
        self.exchanges[msg_id] = cell
        return cell

    def execute(self, code: str, *, timeout_s: float = DEADLINE_S, **kw: Any) -> Cell:
        """Run a cell to its reply and idle."""
        return self.start(code, **kw).wait(timeout_s)

    def run(self, code: str, *, timeout_s: float = DEADLINE_S, **kw: Any) -> Cell:
        """Run a cell that must succeed."""
        return self.execute(code, timeout_s=timeout_s, **kw).succeeded()

    def evaluate(self, expression: str) -> str:
        """repr of an expression in the kernel, by user_expressions: no output, no history, no new count."""
        cell = self.execute("", silent=True, user_expressions={"value": expression})
        value = cell.content["user_expressions"]["value"]
        assert value["status"] == "ok", value
        return str(value["data"]["text/plain"])

    def interrupt(self) -> None:
        """interrupt_request on control, as a client does with `interrupt_mode: message`."""
        if self.process_is_ipykernel():
            self.process.send_signal(signal.SIGINT)
        else:
            self.ask("interrupt_request", channel="control")

    def process_is_ipykernel(self) -> bool:
        """Whether the suite itself is being checked against ipykernel."""
        return "ipykernel" in " ".join(map(str, self.process.popen.args))  # type: ignore[arg-type]

    def shutdown(self, *, restart: bool = False, channel: str = "control") -> Exchange:
        """shutdown_request: its reply comes on the channel and is broadcast on iopub as well."""
        exchange = self.request("shutdown_request", {"restart": restart}, channel=channel, expects_status=False).wait()
        assert exchange.content["restart"] is restart
        self.wait_until(lambda: bool(exchange.claim("shutdown_reply")), "shutdown_reply on iopub")
        return exchange

    def answer(self, request: Message, value: str) -> None:
        """Answer an input_request."""
        self.send("input_reply", {"value": value, "status": "ok"}, channel="stdin", parent=request.header)

    def wait_input_request(self, cell: Cell, timeout_s: float = DEADLINE_S) -> Message:
        """Wait for the cell's next input_request and claim it."""

        def find() -> Message | None:
            return next((m for m in self.input_requests if m.parent_id == cell.msg_id), None)

        self.wait_until(lambda: find() is not None, f"input_request of {cell!r}", timeout_s)
        message = find()
        assert message is not None
        self.input_requests.remove(message)
        return message

    def heartbeat(self, payload: bytes = b"ping", timeout_s: float = DEADLINE_S) -> bytes:
        """Send to the heartbeat channel; what it echoes."""
        with self._context.socket(zmq.REQ) as each:
            each.linger = 0
            self._encrypt(each)
            each.connect(self.process.address("hb"))
            each.send(payload)
            if not each.poll(int(timeout_s * 1000)):
                msg = f"no heartbeat within {timeout_s} s\n{self.process.log()}"
                raise AssertionError(msg)
            return each.recv()

    # --- receiving ---------------------------------------------------------------------------------------------------

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
        """Receive until a condition on what arrived holds; fails at the deadline."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or not self._receive(left):
                state = "alive" if self.process.is_alive() else f"ended with {self.process.popen.returncode}"
                msg = f"no {what} within {timeout_s} s (kernel {state})\n{self.process.log()}"
                raise AssertionError(msg)

    def pass_time(self, seconds: float) -> None:
        """Receive for a while: for the tests of settings that are themselves a time, and only for them."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._receive(left)

    def drain(self) -> None:
        """Take what has arrived already."""
        while self._receive(0):
            pass

    def _receive(self, timeout_s: float) -> bool:
        """Wait for messages and sort them in; whether there were any. A kernel that died ends the wait early."""
        deadline = time.monotonic() + timeout_s
        while True:
            left = max(0.0, deadline - time.monotonic())
            ready = self._poller.poll(int(min(left, 0.5) * 1000 + 0.999))
            if ready:
                break
            if left <= 0.5 or not self.process.is_alive():
                return False
        for channel, each in list(self._sockets.items()):
            # A bounded batch: against a flood the caller's condition and deadline must be looked at in between.
            for _ in range(BATCH):
                if not each.poll(0):
                    break
                self._sort(unpack(channel, self.key, each.recv_multipart()))
        return True

    def _sort(self, message: Message) -> None:
        self._check_identity(message)
        if message.channel == "stdin":
            if message.msg_type != "input_request" or message.parent_id not in self.exchanges:
                msg = f"unexpected on stdin: {message!r}"
                raise ProtocolViolationError(msg)
            self.input_requests.append(message)
        elif message.msg_type == "iopub_welcome":
            # Sent to all who have this subscription: the welcome of one is heard by the others.
            self.welcomes.append(message.content["subscription"])
        elif message.parent_id in self.ignored_ids:
            return
        elif message.parent_id in self.exchanges:
            self.exchanges[message.parent_id].take(message)
        elif message.parent_id and not message.parent_id.startswith(self.session):
            # iopub is broadcast: what other clients' requests cause arrives here too, their replies do not.
            if message.channel != "iopub":
                msg = f"parent of {message!r} is no request of this client"
                raise ProtocolViolationError(msg)
        elif message.content != {"execution_state": "starting"}:
            self.unclaimed.append(message)

    def _check_identity(self, message: Message) -> None:
        session = message.header["session"]
        self.kernel_session = self.kernel_session or session
        if session != self.kernel_session:
            msg = f"the kernel's session changed from {self.kernel_session} to {session} in {message!r}"
            raise ProtocolViolationError(msg)
        # A shutdown_reply is one message on two channels; within a channel an id is used once.
        key = (message.channel, message.header["msg_id"])
        if key in self.seen_ids:
            msg = f"msg_id used twice on {message.channel}: {message!r}"
            raise ProtocolViolationError(msg)
        self.seen_ids.add(key)

    def claim_unparented(self, msg_type: str) -> list[Message]:
        """Messages without a known parent of this type, now asserted."""
        found = [message for message in self.unclaimed if message.msg_type == msg_type]
        self.unclaimed = [message for message in self.unclaimed if message.msg_type != msg_type]
        return found

    # --- strictness --------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """End of a test: every request is answered and everything that arrived was asserted."""
        if self._sockets:
            if self.process.is_alive():
                # iopub keeps its order: once this idle is here, so is all that was published before.
                self.request("kernel_info_request", {}, channel="control").wait()
                self.request("kernel_info_request", {}).wait()
            self.drain()
        exchanges = list(self.exchanges.values())
        left: list[object] = [message for exchange in exchanges for message in exchange.unclaimed()]
        left += self.unclaimed + self.input_requests
        if self.process.is_alive():
            left += [exchange for exchange in exchanges if not exchange.is_done]
        self.forget()
        if left:
            shown = "\n".join(map(repr, left[:20]))
            msg = f"{len(left)} messages or requests that the test did not assert:\n{shown}"
            raise AssertionError(msg)

    def abandon(self) -> None:
        """Close and claim everything: the kernel's end is the test's subject, and may come amid a cell's messages."""
        self.close()
        self.forget()

    def forget(self) -> None:
        """Drop the record of past requests; what still arrives for them is reported as unclaimed."""
        self.exchanges.clear()
        self.unclaimed.clear()
        self.input_requests.clear()
