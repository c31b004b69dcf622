"""A front end's debugger: requests by `debug_request` on control, events on iopub.

The sequences are JupyterLab's: debugInfo, initialize, attach, dumpCell and setBreakpoints for each cell,
configurationDone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Client
    from .exchange import Exchange
    from .message import Message

DEADLINE_S = 20.0
"""The first request imports debugpy, on a machine that may be busy."""


class DebugSession:
    """A debugger that is attached to one kernel."""

    def __init__(self, client: Client) -> None:
        """Prepare; `start` attaches."""
        self.client = client
        self._seq = 0
        self._seen: set[int] = set()

    def send(self, command: str, **arguments: Any) -> Exchange:
        """Send a request without waiting."""
        self._seq += 1
        content = {"type": "request", "seq": self._seq, "command": command, "arguments": arguments}
        return self.client.request("debug_request", content, channel="control")

    def reply(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request; its reply, whatever that says."""
        exchange = self.send(command, **arguments)
        seq = self._seq
        content = exchange.wait(DEADLINE_S).content
        assert content["type"] == "response"
        assert content["command"] == command
        assert content["request_seq"] == seq
        self.events()
        return content

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request that must succeed; the body of its reply."""
        content = self.reply(command, **arguments)
        assert content["success"], content
        return dict(content.get("body") or {})

    def start(self) -> DebugSession:
        """Attach as JupyterLab does."""
        assert self.ask("debugInfo")["isStarted"] is False
        capabilities = self.ask(
            "initialize",
            clientID="jupyterlab",
            clientName="JupyterLab",
            adapterID="python",
            pathFormat="path",
            linesStartAt1=True,
            columnsStartAt1=True,
            supportsVariableType=True,
            supportsVariablePaging=True,
            supportsRunInTerminalRequest=True,
            locale="en",
        )
        assert capabilities["supportsConfigurationDoneRequest"]
        self.ask("attach")
        return self

    def break_at(self, code: str, *lines: int, **more: Any) -> str:
        """Set breakpoints in a cell; the path of its file."""
        path = str(self.ask("dumpCell", code=code)["sourcePath"])
        placed = self.ask(
            "setBreakpoints",
            source={"path": path},
            breakpoints=[{"line": line, **more} for line in lines],
            lines=list(lines),
            sourceModified=False,
        )["breakpoints"]
        assert [each["verified"] for each in placed] == [True] * len(lines)
        self.ask("configurationDone")
        return path

    def events(self) -> list[Message]:
        """All events so far, in order, now asserted."""
        found = list(self.client.claim_unparented("debug_event"))
        for exchange in self.client.exchanges.values():
            for message in (*exchange.iopub, *exchange.late):
                if message.msg_type == "debug_event":
                    exchange.claimed.add(id(message))
                    found.append(message)
        return found

    def wait_event(self, name: str) -> Message:
        """Wait for the next event of this name; the ones before it are not looked at again."""
        found: list[Message] = []

        def is_there() -> bool:
            found[:] = [m for m in self.events() if m.content["event"] == name and id(m) not in self._seen]
            return bool(found)

        self.client.wait_until(is_there, f"debug event {name!r}", DEADLINE_S)
        self._seen.update(id(message) for message in found)
        return found[0]

    def wait_stopped(self, reason: str = "breakpoint") -> int:
        """Wait until the worker has stopped; the thread."""
        body = self.wait_event("stopped").content["body"]
        assert body["reason"] == reason, body
        assert body["threadId"] in self.ask("debugInfo")["stoppedThreads"]
        return int(body["threadId"])

    def frames(self, thread: int) -> list[dict[str, Any]]:
        """The stack of a stopped thread, innermost first."""
        return list(self.ask("stackTrace", threadId=thread)["stackFrames"])

    def where(self, thread: int) -> list[tuple[str, int]]:
        """The stack as names and lines."""
        return [(frame["name"], frame["line"]) for frame in self.frames(thread)]

    def local_values(self, thread: int) -> dict[str, str]:
        """The local variables where a thread has stopped."""
        scopes = self.ask("scopes", frameId=self.frames(thread)[0]["id"])["scopes"]
        assert [scope["name"] for scope in scopes] == ["Locals", "Globals"]
        variables = self.ask("variables", variablesReference=scopes[0]["variablesReference"])["variables"]
        return {each["name"]: each["value"] for each in variables}

    def go_on(self, thread: int, command: str = "continue") -> None:
        """Continue, or step out of what there is."""
        # What earlier steps have caused is not meant.
        self._seen.update(id(message) for message in self.events())
        self.ask(command, threadId=thread)
        self.wait_event("continued")
        assert self.ask("debugInfo")["stoppedThreads"] == []
