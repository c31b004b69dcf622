"""Message hooks, which user code registers to see, change or use up what it publishes.

They belong to the thread that registered them (ipywidgets' Output relies on it).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

MessageHook = Callable[[dict[str, Any]], dict[str, Any] | None]


class Hooks(threading.local):
    """The hooks of each thread."""

    def __init__(self) -> None:
        self.registered: list[MessageHook] = []
        self._is_passing = False

    def register(self, hook: MessageHook) -> None:
        """Have `hook` see each message of this thread; one for which it returns None is not sent."""
        self.registered.append(hook)

    def unregister(self, hook: MessageHook) -> bool:
        """Remove `hook`; return whether it was there."""
        if hook not in self.registered:
            return False
        self.registered.remove(hook)
        return True

    def passed(self, msg_type: str, content: dict[str, Any]) -> dict[str, Any] | None:
        """Return the content after all hooks, None when one has used the message up.

        What a hook publishes itself goes past them.
        """
        if not self.registered or self._is_passing:
            return content
        message: dict[str, Any] | None = {
            "header": {"msg_type": msg_type},
            "msg_type": msg_type,
            "parent_header": {},
            "metadata": {},
            "content": content,
            "buffers": [],
        }
        self._is_passing = True
        try:
            for hook in tuple(self.registered):
                assert message is not None
                message = hook(message)
                if message is None:
                    return None
        finally:
            self._is_passing = False
        assert message is not None
        used: dict[str, Any] = message["content"]
        return used
