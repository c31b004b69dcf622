"""Replies: built from their request, sent where it came from. Nobody else sends on shell or control."""

from __future__ import annotations

from capsule_kernel.clock import Clock
from capsule_kernel.front.journal import Journal
from capsule_kernel.front.requests import Request
from capsule_kernel.wire.jupyter import Wire, encode_json


class Replies:
    """Sends replies."""

    def __init__(self, wire: Wire, *, clock: Clock, journal: Journal) -> None:
        self._wire = wire
        self._journal = journal
        self._clock = clock

    def send(
        self,
        request: Request,
        msg_type: str,
        content: bytes,
        *,
        metadata: bytes = b"{}",
        buffers: list[bytes] | None = None,
    ) -> None:
        """Send `content`, JSON, as the reply to `request`."""
        if msg_type == "execute_reply":
            self._journal.close(request, content, metadata)
        request.channel.send(
            self._wire.encode(
                msg_type,
                content,
                parent=request.parent,
                date=self._clock.iso_now(),
                metadata=metadata,
                buffers=buffers,
                idents=request.message.idents,
            )
        )

    def error(self, request: Request, msg_type: str, ename: str, evalue: str) -> None:
        """Reply with an error (Jupyter messaging, "Request-Reply")."""
        self.send(
            request,
            msg_type,
            encode_json({"status": "error", "ename": ename, "evalue": evalue, "traceback": [f"{ename}: {evalue}"]}),
        )
