"""`get_ipython().kernel.do_one_iteration()`: user code that keeps the main thread lets what waits for it be handled.

jupyter_ui_poll calls it, from a coroutine or from a thread for which the cell waits. Cells wait in the front and not
here, so all that can have come in are comm messages. ipykernel has had it up to version 6.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from capsule_kernel.worker.loop import EventLoopCoordinator

HANDLED = ("execute_request", "comm_open", "comm_msg", "comm_close")


class Polling:
    """Turns of the loop that user code asks for."""

    def __init__(self, *, coordinator: EventLoopCoordinator, handle_waiting: Callable[[], None]) -> None:
        self._coordinator = coordinator
        self._handle_waiting = handle_waiting

    async def do_one_iteration(self) -> None:
        """Handle the comm messages that have come in."""
        if threading.current_thread() is threading.main_thread():
            # The loop looks at the link in the first turn, and handles in the second what it has found.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        elif not self._coordinator.is_running:
            self._handle_waiting()


class Handlers(dict[str, Any]):
    """`kernel.shell_handlers`, to look into and to put wrappers in: libraries replace `execute_request` for a while.

    What is put in is not called: cells wait in the front until the running one is over.
    """

    def __init__(self, kernel: Any) -> None:
        super().__init__({name: getattr(kernel, name) for name in HANDLED})
