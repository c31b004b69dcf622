"""`sys.stdout` and `sys.stderr`: text that is held for a moment and published as few messages.

What a cell wrote leaves with its end. While it runs longer, and between cells, the reader thread publishes at
intervals. The class is what user code may expect of ipykernel's OutStream.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import Token
from typing import Any, NamedTuple

from capsule_kernel.wire.worker_messages import Stream
from capsule_kernel.worker import parents
from capsule_kernel.worker.channel import Channel
from capsule_kernel.worker.hooks import Hooks, MessageHook

HELD_CHARACTERS = 1 << 18
"""Text that is held at the most, in characters: pieces of this size keep worker, front and client busy together."""

_DESCRIPTORS = {"stdout": 1, "stderr": 2}
_context_request = parents.context_request


class Detour(NamedTuple):
    """Another way for the output of one request: unlike the usual one, it keeps its place among the answers there."""

    parent: int
    channel: Channel


class _Held:
    """Text of one request that waits to be published.

    Writers add to `texts` without a lock, whose price is more than that of all the rest, and look at `limit` before and
    after. Whoever takes the text sets `limit` to 0 first, then takes what is there: a writer that comes later sees it,
    and goes the long way.

    Attributes:
        limit: characters from which on a writer publishes; 0 where each write goes the long way.
        is_waiting: whether somebody knows that there is text.
    """

    __slots__ = ("characters", "is_waiting", "limit", "parent", "texts")

    def __init__(self, parent: int) -> None:
        self.parent = parent
        self.texts: list[str] = []
        self.characters = 0
        self.limit = 0
        self.is_waiting = False

    def take(self) -> str:
        """Return what is held, and hold nothing; the caller has the stream's lock."""
        self.limit = 0
        self.is_waiting = False
        # No call between: a signal's handler may print, and publish, in the middle of one.
        count = len(self.texts)
        taken = self.texts[:count]
        del self.texts[:count]
        self.characters = 0
        return "".join(taken)


class OutStream(io.TextIOBase):
    """A text stream that publishes what is written to it."""

    # What `str(type(sys.stdout))` says: libraries look for it.
    __module__ = "ipykernel.iostream"

    encoding = "UTF-8"
    errors = None
    newlines = None
    topic = None

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._stream = name
        self._channel: Channel | None = None
        self._wake: Callable[[], None] | None = None
        self._is_by_line = False
        self._lock = threading.RLock()
        self._held = _Held(0)
        self.held_since = 0.0
        # Whether the front may hold text of this stream.
        self._is_sent = False
        self._hooks = Hooks()
        self._has_hooks = False
        self.detour: Detour | None = None

    def connect(self, channel: Channel, wake: Callable[[], None]) -> None:
        """Publish through `channel`; `wake` is called when text begins to wait."""
        self._channel = channel
        self._wake = wake

    def write(self, text: str) -> int:
        """Hold `text` for publication; return its length.

        Raises:
            TypeError: `text` is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text)}")
        held = self._held
        if held.limit and held.parent == _context_request():
            length = len(text)
            held.texts.append(text)
            held.characters += length
            if held.characters >= held.limit or held is not self._held:
                with self._lock:
                    self._note(held)
            return length
        return self._write(text)

    def _write(self, text: str) -> int:
        if not text:
            return 0
        length = len(text)
        if self._has_hooks:
            content = self._hooks.passed("stream", {"name": self._stream, "text": text})
            if content is None:
                return length
            text = content["text"]
        parent = parents.current()
        detour = self.detour
        if detour is not None and detour.parent == parent:
            detour.channel.send(Stream(parent=parent, name=self._stream, text=_utf8(text), flushed=True))
            return length
        with self._lock:
            if self._held.parent != parent:
                fresh = _Held(parent)
                # No call between: the handler of a signal may have printed, and changed it. Another one before anything
                # is published: nobody is to add to that.
                before, self._held = self._held, fresh
                self._publish(before)
            self._held.texts.append(text)
            self._held.characters += len(text)
            self._note(self._held, ends_line=self._is_by_line and "\n" in text)
        return length

    def _note(self, held: _Held, *, ends_line: bool = False) -> None:
        """See to text that was added to `held`; the caller has the lock."""
        if held is not self._held or held.characters >= HELD_CHARACTERS or ends_line:
            self._publish(held)
            return
        if not held.is_waiting:
            held.is_waiting = True
            self.held_since = time.monotonic()
            if self._wake is not None:
                self._wake()
        if held.parent and not self._has_hooks and not self._is_by_line:
            held.limit = HELD_CHARACTERS

    def writelines(self, sequence: Iterable[str]) -> None:  # type: ignore[override]
        """Write each of `sequence`."""
        for text in sequence:
            self.write(text)

    def flush(self) -> None:
        """Publish what is held, here and by the front."""
        with self._lock:
            if self._held.texts or self._is_sent:
                self._publish(self._held, flushed=True)
                self._is_sent = False

    def hand_over(self) -> None:
        """Have the front hold what is held here."""
        with self._lock:
            self._publish(self._held)

    def take(self, parent: int | None = None) -> Stream | None:
        """Return what is held as a message, and hold nothing. What is not of `parent`, if named, is published first."""
        with self._lock:
            held = self._held
            if parent is not None and held.parent != parent:
                # Now: the other's cell may end before this caller sends anything.
                self._publish(held)
                return None
            return self._taken(held)

    def _is_master_process(self) -> bool:
        """Whether this is the worker itself, and not a child that user code forked; ipykernel's name for it."""
        return not self._is_by_line

    def fileno(self) -> int:
        """Return the descriptor that the front captures: 1 or 2."""
        return _DESCRIPTORS[self._stream]

    def isatty(self) -> bool:
        """Return whether to pretend to be a terminal: never."""
        return False

    def readable(self) -> bool:
        """Return False."""
        return False

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Publish what is held; the stream stays usable, since later cells need it."""
        self.flush()

    @property
    def closed(self) -> bool:
        """Whether the stream is closed: never."""
        return False

    @property
    def parent_header(self) -> dict[str, Any]:
        """Header of the request that output belongs to now; empty where none is known."""
        shell = _shell()
        return shell.get_parent().get("header", {}) if shell is not None else {}

    def set_parent(self, parent: dict[str, Any]) -> None:
        """Have output belong to the request `parent` (a message, or its header)."""
        shell = _shell()
        if shell is not None:
            shell.set_parent(parent)

    def set_thread_parent(self, parent: dict[str, Any]) -> Token[int] | None:
        """Have the calling thread's output belong to `parent`; the token is for `reset_thread_parent`."""
        shell = _shell()
        return parents.set_thread_parent(shell.serial_of(parent)) if shell is not None else None

    def reset_thread_parent(self, token: Token[int] | None) -> None:
        """Undo `set_thread_parent`."""
        if token is not None:
            parents.reset_thread_parent(token)

    def register_hook(self, hook: MessageHook) -> None:
        """Have `hook` see what this thread writes, as messages; one for which it returns None is not sent."""
        self._hooks.register(hook)
        with self._lock:
            self._has_hooks = True
            self._held.limit = 0

    def unregister_hook(self, hook: MessageHook) -> bool:
        """Remove `hook`; return whether it was there."""
        return self._hooks.unregister(hook)

    def after_fork_in_child(self) -> None:
        """Begin anew in a child that user code forked: what is held is the parent's to publish."""
        self._lock = threading.RLock()
        self._held = _Held(0)
        self._wake = None
        # Whole lines go to descriptor 1 or 2 at once: a child may leave without a flush, and its output stands among
        # other processes'.
        self._is_by_line = True

    def renew(self, wake: Callable[[], None]) -> None:
        """Publish again: this process was a snapshot of the worker, and is the worker now."""
        self._lock = threading.RLock()
        self._held = _Held(0)
        self._wake = wake
        self._is_by_line = False

    def _taken(self, held: _Held) -> Stream | None:
        text = held.take()
        return Stream(parent=held.parent, name=self._stream, text=_utf8(text)) if text else None

    def _publish(self, held: _Held, *, flushed: bool = False) -> None:
        message = self._taken(held)
        if message is None:
            if not flushed:
                return
            message = Stream(parent=held.parent, name=self._stream, text="")
        if self._channel is None:
            return
        if self._channel.is_ours:
            self._is_sent = True
            age_ms = int((time.monotonic() - self.held_since) * 1000)
            for piece in in_pieces(message, flushed=flushed, age_ms=age_ms):
                self._channel.send(piece)
        else:
            _write_all(self.fileno(), message.text.encode())


def flush_streams() -> None:
    """Hand over what was written so far, also what user code's own streams in the place of ours hold."""
    for name, stream in (("stdout", STDOUT), ("stderr", STDERR)):
        current = getattr(sys, name, None)
        if current is not stream:
            flush_foreign(current)
        stream.hand_over()


def flush_foreign(stream: Any) -> None:
    """Flush a stream of user code's, which may be anything, None included."""
    with contextlib.suppress(Exception):  # what it raises is between it and user code
        stream.flush()


def in_pieces(message: Stream, *, flushed: bool = False, age_ms: int = 0) -> Iterator[Stream]:
    """Cut long text into messages that worker, front and client can each work on at the same time."""
    step = HELD_CHARACTERS if len(message.text) > 2 * HELD_CHARACTERS else max(1, len(message.text))
    for start in range(0, max(1, len(message.text)), step):
        text = message.text[start : start + step]
        yield Stream(parent=message.parent, name=message.name, text=text, flushed=flushed, age_ms=age_ms)


def _utf8(text: str) -> str:
    """Return `text` with lone surrogates, which UTF-8 and JSON do not have, as question marks."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except OSError:
            # The descriptor is user code's, which may have closed it.
            return


_SPAWN_PATIENCE_S = 0.05
_SPAWNING = frozenset({"os.system", "subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty"})


def keep_order_with_children(channel: Channel) -> None:
    """Have what was printed and displayed before a child process is started come before what that writes."""

    def on_audit(event: str, _: tuple[Any, ...]) -> None:
        if event in _SPAWNING:
            settle(channel)

    sys.addaudithook(on_audit)


def settle(channel: Channel) -> None:
    """Have what was printed and displayed so far come before what is written to descriptors from now on."""
    if sys.stdout is STDOUT and channel.is_ours:
        STDOUT.hand_over()
        STDERR.hand_over()
        channel.wait_received(_SPAWN_PATIENCE_S)


def _shell() -> Any:
    """Return the shell, without importing it: the stream exists before the shell does."""
    module = sys.modules.get("capsule_kernel.worker.shell")
    return module.ZMQInteractiveShell.instance() if module is not None else None


STDOUT = OutStream("stdout")
"""What `sys.stdout` is in every worker."""

STDERR = OutStream("stderr")
"""What `sys.stderr` is in every worker."""
