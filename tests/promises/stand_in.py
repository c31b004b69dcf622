"""The SDK's in-memory server behind the wire of a real one (HTTP and server-sent events), and the ways to fail."""

import asyncio
import json
from typing import Any, Self

from aiohttp import web
from resonate.connections.local import ServerState, unwrap_request_envelope, wrap_response_envelope

from capsule_kernel.clock import Clock


class StandIn:
    """Attributes:
    state: the promises.
    mood: `well`, or how it fails: `stalled`, `429`, `502`, `truncated`, `deaf` (the stream stays silent),
        `loses answers` (it does what it is asked, once, and hangs up).
    tokens: the tokens that it takes; all when empty.
    requests: the kinds that it was asked for.
    streams: how many streams of messages were opened.
    """

    def __init__(self) -> None:
        self.state = ServerState()
        self.mood = "well"
        self.tokens: set[str] = set()
        self.requests: list[str] = []
        self.auths: set[str | None] = set()
        self.streams = 0
        self.refuses_colons = False
        self._open: dict[str, list[web.StreamResponse]] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        app = web.Application()
        app.add_routes([web.post("/", self._post), web.get("/poll/{group}/{pid}", self._poll)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self._open.clear()
        assert self._runner is not None
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def hang_up_streams(self) -> None:
        for streams in self._open.values():
            for stream in streams:
                transport = stream._req.transport if stream._req is not None else None
                if transport is not None:
                    transport.abort()
        self._open.clear()

    async def _post(self, request: web.Request) -> web.StreamResponse:
        if self.mood == "stalled":
            await asyncio.sleep(3600)
        if self.mood in {"429", "502", "503"}:
            return web.Response(status=int(self.mood), text="<html>later</html>", content_type="text/html")
        envelope = json.loads(await request.text())
        self.requests.append(envelope["kind"])
        self.auths.add(envelope["head"].get("auth"))
        if self.tokens and envelope["head"].get("auth") not in self.tokens:
            return web.json_response(self._error(envelope, 401, "Unauthorized"), status=401)
        data = envelope["data"]
        if self.refuses_colons and ":" in data.get("id", "") and data.get("tags", {}).get("resonate:origin"):
            return web.json_response(self._error(envelope, 400, "Promise ID must start with its origin"), status=400)
        if envelope["kind"] == "promise.search":
            return web.json_response(self._search(envelope))
        if envelope["kind"] == "task.get":
            return web.json_response(self._task(envelope))
        flat = self.state.apply(Clock().unix_ms(), unwrap_request_envelope(envelope))
        await self._deliver()
        if self.mood == "loses answers":
            self.mood = "well"
            assert request.transport is not None
            request.transport.abort()
        body = json.dumps(wrap_response_envelope(flat))
        if self.mood == "truncated":
            return web.Response(text=body[: len(body) // 2], content_type="application/json")
        return web.Response(text=body, status=flat["status"], content_type="application/json")

    def _search(self, envelope: dict[str, Any]) -> dict[str, Any]:
        data = envelope["data"]
        found = [
            promise.to_record()
            for promise in sorted(self.state.promises.values(), key=lambda one: one.id)
            if data.get("state") in {None, promise.state}
            and (data.get("tags") or {}).items() <= promise.tags.items()
            and promise.id > (data.get("cursor") or "")
        ]
        page = found[: data["limit"]]
        answer = {"promises": page, "cursor": page[-1]["id"] if len(found) > len(page) else None}
        return {"kind": envelope["kind"], "head": {**envelope["head"], "status": 200}, "data": answer}

    def _task(self, envelope: dict[str, Any]) -> dict[str, Any]:
        task = self.state.tasks.get(envelope["data"]["id"])
        if task is None:
            return self._error(envelope, 404, "Task not found")
        answer = {"task": task.to_record()}
        return {"kind": envelope["kind"], "head": {**envelope["head"], "status": 200}, "data": answer}

    def _error(self, envelope: dict[str, Any], status: int, reason: str) -> dict[str, Any]:
        head = {"corrId": envelope["head"]["corrId"], "status": status}
        return {"kind": envelope["kind"], "head": head, "data": reason}

    async def _poll(self, request: web.Request) -> web.StreamResponse:
        if self.mood == "stalled":
            await asyncio.sleep(3600)
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens and bearer not in self.tokens:
            return web.Response(status=401, text="Unauthorized")
        if self.mood in {"429", "502", "503"}:
            return web.Response(status=int(self.mood))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.streams += 1
        self._open.setdefault(f"{request.match_info['group']}/{request.match_info['pid']}", []).append(response)
        await asyncio.sleep(3600)
        return response

    async def _deliver(self) -> None:
        messages, self.state.outgoing = self.state.outgoing, []
        if self.mood == "deaf":
            return
        for message in messages:
            address = message.address.removeprefix("poll://uni@").removeprefix("poll://any@")
            for name, streams in self._open.items():
                if name == address or name.startswith(f"{address}/"):
                    await streams[0].write(f"data: {json.dumps(message.message)}\n\n".encode())
                    break
