"""The debugger: what front ends ask with `debug_request`, whichever worker runs.

It remembers what was asked for (attachment, breakpoints), and tells each new worker again. Most requests go to debugpy
in the worker as they are. Sources: Jupyter messaging, "Debug request" and "Additions to the DAP"; Debug Adapter
Protocol.
"""

from __future__ import annotations

import ast
import asyncio
import logging
import re
import shutil
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from capsule_kernel.errors import DebuggerGone
from capsule_kernel.front.debug_link import DebugLink
from capsule_kernel.front.iopub import IOPub
from capsule_kernel.front.requests import Request
from capsule_kernel.sessions.session import Session
from capsule_kernel.wire.dap import DapMessage
from capsule_kernel.wire.jupyter import encode_json
from capsule_kernel.wire.worker_messages import Answer, Debug, Debuggable, DebugQuestion

_log = logging.getLogger(__name__)
_START_DEADLINE_S = 30.0
_LEAVE_DEADLINE_S = 2.0
CELL_NAME_SEED = 0xC70F6907
"""As the worker has it (`compiling`)."""

_QUESTIONS = frozenset({"inspectVariables", "modules", "dumpCell", "source"})
_HIDDEN = frozenset(
    {
        *("__name__", "__doc__", "__package__", "__loader__", "__spec__", "__annotations__", "__builtins__"),
        *("__builtin__", "__display__", "get_ipython", "debugpy", "exit", "quit"),
        *("In", "Out", "_oh", "_dh", "_", "__", "___"),
    }
)
_HISTORY_NAME = re.compile(r"_i|_\d")
_MALFORMED = (KeyError, TypeError, AttributeError, ValueError, RecursionError, MemoryError)
_REMEMBERED = ("setExceptionBreakpoints", "setFunctionBreakpoints")
_INITIALIZE = {
    "clientID": "capsule",
    "adapterID": "debugpy",
    "pathFormat": "path",
    "linesStartAt1": True,
    "columnsStartAt1": True,
    "supportsVariableType": True,
    "supportsVariablePaging": True,
}


class DapRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a `debug_request`."""

    command: str
    seq: int = 0
    arguments: dict[str, Any] | None = None


class Debugger:
    """The kernel's debugger."""

    def __init__(
        self,
        *,
        iopub: IOPub,
        session: Callable[[], Session | None],
        running: Callable[[], Request | None],
        folder: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._iopub = iopub
        self._session = session
        self._running = running
        self._folder = folder
        self._loop = loop
        self._ready = asyncio.Event()
        self._link: DebugLink | None = None
        self._birth: asyncio.Future[tuple[Debuggable, socket.socket | None]] | None = None
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        # Held by what starts, attaches or stops: other requests wait for it.
        self._phase = asyncio.Lock()
        self._rules: list[str] = []
        self._initialize: dict[str, Any] = {}
        self._attach: dict[str, Any] | None = None
        self._breakpoints: dict[str, dict[str, Any]] = {}
        self._remembered: dict[str, dict[str, Any]] = {}
        self._stopped: set[int] = set()
        self._parent = b"{}"
        self._is_quiet = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_started = False
        if session() is not None:
            self._ready.set()

    def __repr__(self) -> str:
        state = "started" if self.is_started else "off"
        return f"<Debugger {state}, {len(self._breakpoints)} files with breakpoints, {len(self._stopped)} stopped>"

    async def handle(self, request: Request) -> DapMessage:
        """Return the content of a `debug_reply`."""
        asked = msgspec.json.decode(request.message.raw_content, type=DapRequest)
        self._parent = request.parent
        try:
            reply = await self._handle(asked, request.serial)
        except DebuggerGone as exc:
            reply = _failure(str(exc))
        except _MALFORMED as exc:
            # What a front end asks and a worker answers is checked where it is looked at.
            reply = _failure(f"{asked.command} with what is not understood: {type(exc).__name__}: {exc}")
        return (
            {"type": "response", "seq": asked.seq, "success": True, "body": {}}
            | reply
            | {
                "request_seq": asked.seq,
                "command": asked.command,
            }
        )

    async def _handle(self, asked: DapRequest, serial: int) -> DapMessage:
        arguments = asked.arguments or {}
        match asked.command:
            case "debugInfo":
                return {"body": self._info()}
            case "initialize":
                async with self._phase:
                    return await self._start(arguments)
            case "attach":
                async with self._phase:
                    self._attach = arguments
                    return await self._attach_now()
            case "disconnect" | "terminate":
                async with self._phase:
                    return await self._disconnect()
            case "configurationDone":
                return {}
            case command if command in _QUESTIONS or (
                command in {"variables", "richInspectVariables"} and not self._stopped
            ):
                return await self._ask(command, arguments, serial)
            case command:
                async with self._phase:
                    link = self._link
                if link is None:
                    return _failure("the debugger has not been started")
                return await self._forward(link, command, arguments)

    def _info(self) -> dict[str, Any]:
        return {
            "isStarted": self.is_started,
            "hashMethod": "Murmur2",
            "hashSeed": CELL_NAME_SEED,
            "tmpFilePrefix": self._folder,
            "tmpFileSuffix": ".py",
            "breakpoints": [
                {"source": path, "breakpoints": each["breakpoints"]} for path, each in self._breakpoints.items()
            ],
            "stoppedThreads": sorted(self._stopped),
            "richRendering": True,
            "exceptionPaths": ["Python Exceptions"],
            "copyToGlobals": True,
        }

    # --- starting and stopping ---------------------------------------------------------------------------------------

    async def _start(self, arguments: dict[str, Any]) -> DapMessage:
        if self._link is not None:
            self._close_link()
        self._initialize = _INITIALIZE | arguments
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                await self._ready.wait()
                response = await self._connect()
        except TimeoutError:
            response = _failure(f"the worker did not start a debugger within {_START_DEADLINE_S:g} s")
        self.is_started = bool(response.get("success"))
        return response

    async def _connect(self) -> DapMessage:
        """Have the worker start its debugger; return the response to `initialize`."""
        session = self._session()
        if session is None:
            raise DebuggerGone("initialize")
        birth = self._birth = self._loop.create_future()
        session.say(Debug(wanted=True))
        message, sock = await birth
        if sock is None:
            return _failure(f"debugpy cannot be used: {message.error}")
        self._rules = message.rules
        link = self._link = DebugLink(sock, on_event=self._on_event)
        await link.start()
        return await link.request("initialize", self._initialize)

    async def _attach_now(self) -> DapMessage:
        """Attach, with all breakpoints that are known."""
        link, arguments = self._link, dict(self._attach or {})
        if link is None:
            return _failure("the debugger has not been started")
        options = {"DebugStdLib"} | set(arguments.get("debugOptions") or ())
        arguments["debugOptions"] = sorted(options)
        arguments["rules"] = [*({"path": path, "include": False} for path in self._rules), *arguments.get("rules", ())]
        # Where debugpy listens is nobody's business: it does not.
        arguments.pop("connect", None)
        response = await link.request("attach", arguments)
        for known in self._breakpoints.values():
            await link.request("setBreakpoints", known)
        for command, known in self._remembered.items():
            await link.request(command, known)
        await link.request("configurationDone", {})
        return response

    async def _disconnect(self) -> DapMessage:
        link = self._link
        if link is None:
            return _failure("the debugger has not been started") if not self.is_started else self._reset()
        try:
            async with asyncio.timeout(_LEAVE_DEADLINE_S):
                await link.request("disconnect", {"restart": False, "terminateDebuggee": False})
        except (TimeoutError, DebuggerGone):
            _log.info("the debugger did not answer at its end")
        session = self._session()
        if session is not None:
            session.say(Debug(wanted=False))
        return self._reset()

    def _reset(self) -> DapMessage:
        self._close_link()
        self._attach = None
        self._breakpoints.clear()
        self._remembered.clear()
        self.is_started = False
        return {}

    def _close_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        self._stopped.clear()

    # --- requests ----------------------------------------------------------------------------------------------------

    async def _forward(self, link: DebugLink, command: str, arguments: dict[str, Any]) -> DapMessage:
        match command:
            case "setBreakpoints":
                return await self._set_breakpoints(link, arguments)
            case "variables":
                response = await link.request(command, arguments)
                return _without_hidden(response)
            case "richInspectVariables":
                return await self._rich(link, arguments)
            case "copyToGlobals":
                return await self._copy_to_globals(link, arguments)
            case _:
                if command in _REMEMBERED:
                    self._remembered[command] = arguments
                return await link.request(command, arguments)

    async def _set_breakpoints(self, link: DebugLink, arguments: dict[str, Any]) -> DapMessage:
        path = str(arguments.get("source", {}).get("path", ""))
        wanted = [dict(each) for each in arguments.get("breakpoints") or ()]
        self._breakpoints[path] = {**arguments, "breakpoints": wanted}
        response = await link.request("setBreakpoints", arguments)
        placed = (response.get("body") or {}).get("breakpoints", []) if response.get("success") else []
        for each, at in zip(wanted, placed, strict=False):
            # Where debugpy has put it, which is where front ends show it after a reload.
            each["line"] = at.get("line", each.get("line"))
        if not wanted:
            del self._breakpoints[path]
        return response

    async def _rich(self, link: DebugLink, arguments: dict[str, Any]) -> DapMessage:
        name = str(arguments.get("variableName", ""))
        empty: DapMessage = {"body": {"data": {}, "metadata": {}}}
        if not name.isidentifier():
            # What debugpy groups under such a name has no other display.
            return empty | {"success": name in {"special variables", "function variables"}}
        expression = f"__import__('capsule_kernel.worker.variables', fromlist=['rich_text']).rich_text({name})"
        asked = {"expression": expression, "frameId": arguments.get("frameId"), "context": "clipboard"}
        response = await link.request("evaluate", asked)
        if not response.get("success"):
            return response
        try:
            text = response["body"]["result"]
            body = msgspec.json.decode(ast.literal_eval(text) if text[:1] in "'\"" else text)
        except (SyntaxError, msgspec.MsgspecError):
            return empty
        return {"body": body}

    async def _copy_to_globals(self, link: DebugLink, arguments: dict[str, Any]) -> DapMessage:
        target, source = str(arguments.get("dstVariableName", "")), str(arguments.get("srcVariableName", ""))
        if not target.isidentifier() or not source.isidentifier():
            return _failure("dstVariableName and srcVariableName must be valid identifiers")
        return await link.request(
            "setExpression",
            {"expression": f"globals()['{target}']", "value": source, "frameId": arguments.get("srcFrameId")},
        )

    async def _ask(self, command: str, arguments: dict[str, Any], serial: int) -> DapMessage:
        """Put a question to the worker's reader thread."""
        if command == "richInspectVariables":
            name = str(arguments.get("variableName", ""))
            if not name.isidentifier():
                is_group = name in {"special variables", "function variables"}
                return {"success": is_group, "body": {"data": {}, "metadata": {}}}
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                await self._ready.wait()
        except TimeoutError:
            return _failure("the worker is not ready")
        session = self._session()
        if session is None:
            raise DebuggerGone(command)
        answer = self._answers[serial] = self._loop.create_future()
        try:
            session.say(DebugQuestion(serial=serial, command=command, arguments=arguments))
            content = await answer
        finally:
            del self._answers[serial]
        if not content:
            raise DebuggerGone(command)
        body = msgspec.json.decode(content, type=dict[str, Any])
        if body.get("status") == "error":
            return _failure("source unavailable" if command == "source" else f"{body['ename']}: {body['evalue']}")
        return _without_hidden({"body": body})

    # --- what the worker says ----------------------------------------------------------------------------------------

    def _on_event(self, event: DapMessage) -> None:
        if self._is_quiet:
            return
        body = event.get("body") or {}
        match event.get("event"):
            case "stopped":
                task = self._loop.create_task(self._note_stop(event))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
            case "continued":
                if body.get("allThreadsContinued"):
                    self._stopped.clear()
                else:
                    self._stopped.discard(body.get("threadId"))
            case _:
                pass
        self._publish(event)

    async def _note_stop(self, event: DapMessage) -> None:
        """Learn which threads have stopped before the front end is told."""
        body = event.get("body") or {}
        self._stopped.add(body.get("threadId", 0))
        link = self._link
        if body.get("allThreadsStopped") and link is not None:
            try:
                response = await link.request("threads", {})
            except DebuggerGone:
                return
            self._stopped.update(each["id"] for each in (response.get("body") or {}).get("threads", ()))
        self._publish(event)

    def _publish(self, event: DapMessage) -> None:
        running = self._running()
        parent = running.parent if running is not None else self._parent
        self._iopub.publish("debug_event", encode_json(event), parent=parent)

    def on_debuggable(self, message: Debuggable, sock: socket.socket | None) -> None:
        """The worker has started its debugger, or cannot."""
        if self._birth is not None and not self._birth.done():
            self._birth.set_result((message, sock))
        elif sock is not None:
            sock.close()

    def on_answer(self, message: Answer) -> bool:
        """Take the answer to a question; return whether it was one of the debugger's."""
        future = self._answers.get(message.serial)
        if future is None:
            return False
        if not future.done():
            future.set_result(message.content)
        return True

    def on_death(self) -> None:
        """The worker is gone."""
        self._ready.clear()
        was_stopped = bool(self._stopped)
        self._close_link()
        if self._birth is not None and not self._birth.done():
            self._birth.set_result((Debuggable(error="the worker has died"), None))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(b"")
        if was_stopped:
            # Or front ends would show for ever where it stood.
            body = {"threadId": 0, "allThreadsContinued": True}
            self._publish({"type": "event", "seq": 0, "event": "continued", "body": body})

    async def on_ready(self) -> None:
        """A worker serves: where the debugger was started, it is started there, with all breakpoints."""
        self._ready.set()
        if not self.is_started:
            return
        async with self._phase:
            if self._link is not None or not self.is_started:
                return
            self._is_quiet = True
            try:
                async with asyncio.timeout(_START_DEADLINE_S):
                    response = await self._connect()
                    if response.get("success") and self._attach is not None:
                        await self._attach_now()
            except (TimeoutError, DebuggerGone) as exc:
                _log.warning("the debugger could not be started in a new worker: %s", exc)
            finally:
                self._is_quiet = False

    def close(self) -> None:
        """The kernel ends."""
        self._close_link()
        shutil.rmtree(self._folder, ignore_errors=True)


def _without_hidden(response: DapMessage) -> DapMessage:
    """Return a response without the variables that are the kernel's own."""
    variables = (response.get("body") or {}).get("variables")
    if variables is None:
        return response
    shown = [each for each in variables if each["name"] not in _HIDDEN and not _HISTORY_NAME.match(each["name"])]
    return {**response, "body": {**response["body"], "variables": shown}}


def _failure(message: str) -> DapMessage:
    return {"success": False, "message": message, "body": {}}
