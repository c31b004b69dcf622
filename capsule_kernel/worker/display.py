"""Rich output: the publisher behind `display`, and the hook behind a cell's last expression.

Both are IPython's, with the sending put in; contents are Jupyter messaging's `display_data`, `update_display_data`,
`execute_result` and `clear_output`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Token
from typing import TYPE_CHECKING, Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from traitlets import Bool

from capsule_kernel.errors import OutputTooLarge
from capsule_kernel.wire.worker_messages import Publish
from capsule_kernel.worker import parents
from capsule_kernel.worker.channel import Channel
from capsule_kernel.worker.hooks import Hooks, MessageHook
from capsule_kernel.worker.mimejson import encode_content
from capsule_kernel.worker.output import Detour, flush_streams

if TYPE_CHECKING:
    from capsule_kernel.worker.shell import ZMQInteractiveShell


class Outlet:
    """Where iopub messages leave: size-checked, with what the streams hold before them."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.max_output_bytes = 1 << 28
        self.detour: Detour | None = None

    def publish(
        self,
        msg_type: str,
        content: dict[str, Any],
        *,
        metadata: dict[str, Any] | None = None,
        buffers: Sequence[Any] | None = None,
        parent: int | None = None,
    ) -> None:
        """Send a message whose parent is the current request, unless `parent` names another.

        `buffers` are any objects with the buffer protocol.

        Raises:
            OutputTooLarge: a comm message exceeds the limit. A display that does is replaced by a note.
        """
        channel = self.channel
        if channel is None:
            return
        serial = parents.current() if parent is None else parent
        detour = self.detour
        if detour is not None and detour.parent == serial:
            channel = detour.channel
        else:
            flush_streams()
        encoded = encode_content(content)
        raw = [_flat(buffer) for buffer in buffers] if buffers else []
        size = len(encoded) + sum(map(len, raw))
        if size > self.max_output_bytes:
            if msg_type.startswith("comm_"):
                raise OutputTooLarge(msg_type, size, self.max_output_bytes)
            encoded = encode_content(self._in_place_of(msg_type, content, size))
            raw = []
        channel.send(
            Publish(
                parent=serial,
                msg_type=msg_type,
                content=encoded,
                metadata=encode_content(metadata) if metadata else b"{}",
                buffers=raw,
            )
        )

    def _in_place_of(self, msg_type: str, content: dict[str, Any], size: int) -> dict[str, Any]:
        text = (
            f"<{msg_type} of {size:,} bytes left out: more than CapsuleKernel.max_output_bytes = "
            f"{self.max_output_bytes:,}>"
        )
        return {**content, "data": {"text/plain": text}, "metadata": {}}


def _flat(buffer: Any) -> bytes:
    """Return what an object with the buffer protocol holds, whatever its shape."""
    return buffer if isinstance(buffer, bytes) else memoryview(buffer).tobytes()


class _Hooked:
    """What publisher and hook have in common: message hooks, and the request that output belongs to."""

    shell: ZMQInteractiveShell

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._thread = Hooks()

    def register_hook(self, hook: MessageHook) -> None:
        """Have `hook` see each message of this thread; one for which it returns None is not sent."""
        self._thread.register(hook)

    def unregister_hook(self, hook: MessageHook) -> bool:
        """Remove `hook`; return whether it was there."""
        return self._thread.unregister(hook)

    @property
    def _hooks(self) -> list[MessageHook]:
        return self._thread.registered

    @property
    def parent_header(self) -> dict[str, Any]:
        """Header of the request that output belongs to now."""
        header: dict[str, Any] = self.shell.get_parent().get("header", {})
        return header

    def set_parent(self, parent: dict[str, Any]) -> None:
        """Have output belong to `parent`."""
        self.shell.set_parent(parent)

    def _send(self, msg_type: str, content: dict[str, Any], *, buffers: list[bytes] | None = None) -> None:
        passed = self._thread.passed(msg_type, content)
        if passed is not None:
            self.shell.outlet.publish(msg_type, passed, buffers=buffers)


class ZMQDisplayPublisher(_Hooked, DisplayPublisher):
    """Publishes `display_data` and its relatives."""

    store_display_history = Bool(False, help="If set to True, store display outputs in the history manager.").tag(
        config=True
    )

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: Any = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        buffers: list[bytes] | None = None,
        **kwargs: Any,
    ) -> None:
        """Publish a MIME bundle (Jupyter messaging, "Display data")."""
        metadata = {} if metadata is None else metadata
        self._validate_data(data, metadata)
        msg_type = "update_display_data" if update else "display_data"
        self._send(msg_type, {"data": data, "metadata": metadata, "transient": transient or {}}, buffers=buffers)

    def clear_output(self, wait: bool = False) -> None:
        """Clear the cell's output, or have the next output do so."""
        self._send("clear_output", {"wait": wait})

    def set_thread_parent(self, parent: dict[str, Any]) -> Token[int]:
        """Have this thread's output belong to `parent`."""
        return parents.set_thread_parent(self.shell.serial_of(parent))

    def reset_thread_parent(self, token: Token[int]) -> None:
        """Undo `set_thread_parent`."""
        parents.reset_thread_parent(token)


_ONE_FORMAT = frozenset({int, float, bool, complex, str, bytes})


class ZMQShellDisplayHook(_Hooked, DisplayHook):
    """Publishes the value of a cell's last expression as `execute_result`."""

    shell: ZMQInteractiveShell
    topic = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.msg: dict[str, Any] | None = None

    def compute_format_data(self, result: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the MIME bundle of a value; numbers and strings have one format unless somebody registered another."""
        formatter = self.shell.display_formatter
        kind = type(result)
        if kind in _ONE_FORMAT and not any(
            kind in other.type_printers or object in other.type_printers
            for mime, other in formatter.formatters.items()
            if mime != "text/plain"
        ):
            return {"text/plain": formatter.formatters["text/plain"](result)}, {}
        data: tuple[dict[str, Any], dict[str, Any]] = formatter.format(result)
        return data

    def update_user_ns(self, result: Any) -> None:
        """Name the value `_` and `_n`, also in a namespace that this very cell has cleared."""
        self.shell.put_back_internals()
        super().update_user_ns(result)

    def start_displayhook(self) -> None:
        """Begin a message."""
        self.msg = {"data": {}, "metadata": {}}

    def write_output_prompt(self) -> None:
        """Number it."""
        if self.msg is not None:
            self.msg["execution_count"] = self.prompt_count

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        """Fill it."""
        if self.msg is not None:
            self.msg["data"] = format_dict
            self.msg["metadata"] = md_dict or {}

    def finish_displayhook(self) -> None:
        """Send it."""
        message, self.msg = self.msg, None
        if message is None or not message["data"]:
            return
        self._send("execute_result", message)
