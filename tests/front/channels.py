"""A clock that stands still until it is moved, and a channel that remembers what was sent by that clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from capsule_kernel.clock import Clock
from capsule_kernel.wire.jupyter import DELIMITER
from tests.bench.client import Message


class SimulatedClock(Clock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class RecordingChannel:
    """Remembers what was sent, and when, by the simulated clock."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self.sent: list[tuple[float, list[bytes]]] = []
        self.under_way: tuple[int, int] = (0, 0)
        self.receive: Callable[[list[bytes]], None] = lambda _: None

    def start(self, on_frames: Callable[[list[bytes]], None]) -> None:
        self.receive = on_frames

    def send(self, frames: list[bytes]) -> None:
        self.sent.append((self._clock.now, frames))

    def under_way_bytes(self) -> tuple[int, int]:
        return self.under_way

    def messages(self) -> list[Message]:
        """What the limiter and the assertions look at."""
        found = []
        for at, frames in self.sent:
            header, parent, metadata, content = frames[frames.index(DELIMITER) + 2 :][:4]
            size = sum(map(len, (header, parent, metadata, content)))
            found.append(Message(at=at, header=header, parent=parent, content=content, size=size))
        return found

    def said(self) -> list[tuple[str, Any, bytes]]:
        return [(message.msg_type, message.json(), message.parent) for message in self.messages()]
