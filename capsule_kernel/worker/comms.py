"""Comms in the worker: what `comm.create_comm` makes, and how a client's message gets to its handler.

Source: Jupyter messaging, "Custom Messages". Handlers run on the main thread, in a copy of the session's context, while
the loop runs: between cells, and at the awaits of a cell. A handler may ask not to wait for a main thread that is
blocked; then, and only then, it runs in a helper thread.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import comm
import msgspec
from comm.base_comm import BaseComm, CommManager

from capsule_kernel.wire.worker_messages import Comm, CommHandled, HandleWhileBlocked
from capsule_kernel.worker import parents
from capsule_kernel.worker.channel import Channel
from capsule_kernel.worker.figures import own_figures
from capsule_kernel.worker.interrupt import ExecutionCancellation
from capsule_kernel.worker.loop import EventLoopCoordinator
from capsule_kernel.worker.output import STDERR, flush_streams
from capsule_kernel.worker.shell import ZMQInteractiveShell, of_user


class CapsuleComm(BaseComm):
    """One end of a comm; the other is in a front end."""

    _is_handled_while_blocked = False

    def publish_msg(
        self,
        msg_type: str,
        data: Any = None,
        metadata: dict[str, Any] | None = None,
        buffers: Sequence[Any] | None = None,
        **keys: Any,
    ) -> None:
        """Send `comm_open`, `comm_msg` or `comm_close`; `buffers` are any objects with the buffer protocol.

        Raises:
            OutputTooLarge: the message exceeds `CapsuleKernel.max_output_bytes`.
        """
        if isinstance(data, dict) and "msg_id" in (data.get("state") or ()):
            # An Output widget takes up, or leaves, what this cell shows.
            self.kernel.captures_output = True
        self.kernel.shell.outlet.publish(
            msg_type,
            {"data": {} if data is None else data, "comm_id": self.comm_id, **keys},
            metadata=metadata,
            buffers=buffers,
        )

    def on_msg(self, callback: Callable[[dict[str, Any]], None] | None, *, while_blocked: bool = False) -> None:
        """Have `callback` get each message of the other end.

        `while_blocked`: when the main thread does not come round to a message, for example since a cell calculates, the
        callback gets it in a helper thread. It must then be fit to run beside the cell, and messages of this comm may
        overtake cells.
        """
        super().on_msg(callback)
        if while_blocked != self._is_handled_while_blocked:
            self._is_handled_while_blocked = while_blocked
            self.kernel.send_to_front(HandleWhileBlocked(comm_id=self.comm_id, wanted=while_blocked))

    def handle_msg(self, msg: dict[str, Any]) -> None:
        """Call the handler between IPython's events, the second of which shows its figures even where it raises."""
        if self._msg_callback is None:
            return
        if threading.current_thread() is not threading.main_thread():
            # IPython's hooks look after the cell's state, with which this must not meddle.
            self._msg_callback(msg)
            return
        events = self.kernel.shell.events
        events.trigger("pre_execute")
        try:
            self._msg_callback(msg)
        finally:
            events.trigger("post_execute")

    def __del__(self) -> None:
        """Send nothing: an open comm is in the manager's table, and a collection may come in the middle of a write."""

    @property
    def kernel(self) -> Any:
        """The worker's kernel, as user code sees it."""
        return _manager[0].shell.kernel

    @property  # type: ignore[misc]  # typeshed has a setter
    def __class__(self) -> type:
        """The class of ipykernel where somebody has imported that: traits of old widgets ask `isinstance`."""
        real = getattr(sys.modules.get("ipykernel.comm.comm"), "Comm", None)
        return type(self) if real is None else real


class CapsuleCommManager(CommManager):
    """The targets and open comms of a worker; shows what handlers raise."""

    def __init__(self, shell: ZMQInteractiveShell) -> None:
        super().__init__()
        self.shell = shell

    @property
    def kernel(self) -> Any:
        """The worker's kernel, as user code sees it."""
        return self.shell.kernel

    def comm_open(self, stream: Any, ident: Any, msg: dict[str, Any]) -> None:
        """Make the comm that a client opens, and hand it to its target; close it where that fails."""
        content = msg["content"]
        name = content.get("target_name", "")
        opened = CapsuleComm(comm_id=content["comm_id"], primary=False, target_name=name)
        self.register_comm(opened)
        target = self.targets.get(name)
        if target is None:
            STDERR.write(f"No such comm target registered: {name}\n")
            opened.close()
            return
        try:
            target(opened, msg)
        except BaseException:
            opened.close()
            raise

    def comm_msg(self, stream: Any, ident: Any, msg: dict[str, Any]) -> None:
        """Hand a message to its comm's handler; one for a comm that is not open is dropped."""
        addressed = self.comms.get(msg["content"]["comm_id"])
        if addressed is not None:
            addressed.handle_msg(msg)

    def comm_close(self, stream: Any, ident: Any, msg: dict[str, Any]) -> None:
        """Forget a comm that the client has closed, and tell its handler."""
        closed = self.comms.pop(msg["content"]["comm_id"], None)
        if closed is not None:
            closed._closed = True  # noqa: SLF001 - there is no other way to say that the peer knows
            closed.handle_close(msg)


_manager: list[CapsuleCommManager] = []
"""The manager, once there is one."""


def install(shell: ZMQInteractiveShell) -> None:
    """Have `comm.create_comm` and `comm.get_comm_manager`, which libraries call, give what this kernel has."""
    if not _manager:
        _manager.append(CapsuleCommManager(shell))
    comm.create_comm = CapsuleComm
    comm.get_comm_manager = lambda: _manager[0]


class CommDelivery:
    """Runs the handlers of comm messages."""

    def __init__(
        self,
        *,
        shell: ZMQInteractiveShell,
        channel: Channel,
        cancellation: ExecutionCancellation,
        coordinator: EventLoopCoordinator,
    ) -> None:
        self._shell = shell
        self._channel = channel
        self._cancellation = cancellation
        self._coordinator = coordinator
        self._offered: deque[Comm] = deque()
        self._helper: threading.Thread | None = None

    def offer(self, message: Comm) -> None:
        """Take a message that must not wait for a blocked main thread; called in the reader thread."""
        self._offered.append(message)
        self._coordinator.call_from_thread(self._handle_offered)

    @property
    def has_offers(self) -> bool:
        """Whether a message of `offer` has not been taken up."""
        return bool(self._offered)

    def help_out(self) -> None:
        """Handle in a helper thread what was offered and the main thread has not taken; called in the reader thread."""
        if self._helper is None or not self._helper.is_alive():
            self._helper = threading.Thread(target=self._handle_offered, name="capsule-comm", daemon=True)
            self._helper.start()

    def _handle_offered(self) -> None:
        while self._offered:
            try:
                message = self._offered.popleft()
            except IndexError:
                # The other thread was quicker.
                return
            self.handle(message)

    def open_comms(self) -> dict[str, str]:
        """Return the open comms and their targets."""
        comms = _manager[0].comms if _manager else {}
        return {str(comm_id): str(each.target_name) for comm_id, each in comms.items()}

    def show_again(self) -> None:
        """This process was a snapshot: tell the other ends what is so here, perhaps no longer there."""
        if not _manager:
            return
        for each in list(_manager[0].comms.values()):
            if getattr(each, "_is_handled_while_blocked", False):
                self._channel.send(HandleWhileBlocked(comm_id=each.comm_id, wanted=True))
        widgets = getattr(sys.modules.get("ipywidgets.widgets.widget"), "_instances", {})
        for widget in list(widgets.values()):
            if getattr(widget, "comm", None) is not None:
                try:
                    widget.send_state()
                except Exception as exc:  # noqa: BLE001 - getters of user code's widgets: shown, as a handler's error is
                    self._shell.showtraceback((type(exc), exc, of_user(exc.__traceback__)), tb_offset=0)

    def handle(self, message: Comm) -> None:
        """Run the handler of `message` to its end, and report it; what the handler raises is shown."""
        parent, content = message.parent, message.content
        # Kept long after the message, whose buffers may be large.
        self._shell.note_request(message.serial, lambda: parents.message_of(parent, msgspec.json.decode(content)))
        context = self._coordinator.context.copy()
        context.run(parents.set_thread_parent, message.serial)
        try:
            if threading.current_thread() is not threading.main_thread():
                context.run(self._dispatch, message)
            elif self._cancellation.serial:
                # A cell awaits: an interrupt is meant for that.
                with own_figures():
                    context.run(self._dispatch, message)
            else:
                with self._cancellation.cancellable_execution(message.serial, is_cell=False):
                    context.run(self._dispatch, message)
        except BaseException as exc:  # noqa: BLE001 - user code's handlers, and interrupts of them
            context.run(self._shell.showtraceback, (type(exc), exc, of_user(exc.__traceback__)), tb_offset=0)
        finally:
            context.run(self._report, message.serial)

    def _dispatch(self, message: Comm) -> None:
        request = parents.message_of(message.parent, msgspec.json.decode(message.content))
        request["buffers"] = [memoryview(buffer) for buffer in message.buffers]
        handler = getattr(_manager[0], message.msg_type)
        handler(None, None, request)

    def _report(self, serial: int) -> None:
        flush_streams()
        self._channel.send(CommHandled(serial=serial, exiting=bool(self._shell.exit_now)))
