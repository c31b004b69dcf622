"""Would jupyter_server have passed the output on? Its iopub rate limiter and defaults, applied to recorded arrivals.

The rules are those of `ZMQChannelsWebsocketConnection._limit_rate` (jupyter_server 2.21): over a window of 3 s, more
than 1,000 messages/s or 1e6 bytes/s of stream output stop the output until both are below 80 % of that; idle resets.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .client import Message

MESSAGES_PER_S = 1000.0
BYTES_PER_S = 1e6
WINDOW_S = 3.0
_RESUME = 0.8
_UNCOUNTED = frozenset({"status", "comm_open", "execute_input"})


def count_dropped(messages: Iterable[Message]) -> int:
    """How many of these iopub messages the limiter would have kept from the browser."""
    window: deque[tuple[float, int]] = deque()
    window_bytes = 0
    too_many = too_big = False
    dropped = 0
    for message in messages:
        msg_type = message.msg_type
        if msg_type == "status" and message.json()["execution_state"] == "idle":
            window.clear()
            window_bytes = 0
            too_many = too_big = False
        if msg_type in _UNCOUNTED:
            continue
        while window and message.at >= window[0][0]:
            window_bytes -= window.popleft()[1]
        size = message.size if msg_type == "stream" else 0
        window.append((message.at + WINDOW_S, size))
        window_bytes += size
        message_rate, byte_rate = len(window) / WINDOW_S, window_bytes / WINDOW_S
        too_many = message_rate > MESSAGES_PER_S or (too_many and message_rate >= _RESUME * MESSAGES_PER_S)
        too_big = byte_rate > BYTES_PER_S or (too_big and byte_rate >= _RESUME * BYTES_PER_S)
        if too_many or too_big:
            dropped += 1
            window.pop()
            window_bytes -= size
    return dropped
