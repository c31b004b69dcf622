"""Shows a run in a terminal: outputs on standard output; progress on standard error, live where that is a terminal."""

import base64
import binascii
import re
import sys
import time
import unicodedata
from collections.abc import Mapping
from shutil import get_terminal_size
from threading import Event, Lock, Thread
from typing import Any, TextIO, assert_never

from nbformat import NotebookNode

from capsule_kernel.batch.events import (
    CellFinished,
    CellOutput,
    CellStarted,
    RunEvent,
    RunFinished,
    RunResumed,
    RunStarted,
    RunWaits,
)
from capsule_kernel.terminal import printable, silence

REDRAW_MS = 100

# ECMA-48: control sequences, and the operating system commands that set titles and links.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_ERASE_LINE = "\r\x1b[2K"


class RunDisplay:
    """An observer that prints. `close()` ends its thread and leaves a clean line.

    Attributes:
        trouble: why outputs could not be printed; empty: they were, or nobody reads them any more.
    """

    def __init__(self, out: TextIO, err: TextIO, environ: Mapping[str, str]) -> None:
        self._out = out
        self._err = err
        self.trouble = ""
        plain = bool(environ.get("NO_COLOR"))
        self._out_colored = out.isatty() and not plain
        self._err_colored = err.isatty() and not plain
        self._live = err.isatty() and environ.get("TERM") != "dumb"
        self._lock = Lock()
        self._closed = Event()
        self._redrawer: Thread | None = None
        self._total = 0
        self._number = 0
        self._done = 0
        self._label = "starting the kernel"
        self._run_began = self._cell_began = time.monotonic()
        self._partial: list[str] = []

    def __call__(self, event: RunEvent) -> None:
        """Show one event."""
        with self._lock:
            self._show(event)

    def open(self) -> None:
        """Begin to redraw the line of progress where there is a terminal."""
        if self._live:
            self._redrawer = Thread(target=self._redraw, name="progress", daemon=True)
            self._redrawer.start()

    def close(self) -> None:
        """Stop redrawing and erase the line of progress."""
        self._closed.set()
        if self._redrawer is not None:
            self._redrawer.join()
            self._write(self._err, _ERASE_LINE)
            self._live = False

    def _show(self, event: RunEvent) -> None:
        match event:
            case RunStarted():
                self._total = event.total
                self._say(f"{event.notebook}: {_count(event.total, 'cell')} to run on {event.kernel}")
            case RunResumed():
                self._done = event.done
                self._say(f"{_count(event.done, 'cell')} finished earlier, not run again")
            case RunWaits():
                self._say(f"waits for an answer to {event.prompt!r}: capsule answer {event.question} TEXT", "33")
            case CellStarted():
                self._number, self._label, self._cell_began = event.number, _first_line(event.source), time.monotonic()
                self._say(f"[{event.number}/{self._total}] {self._label}", "1")
            case CellOutput():
                if event.output["output_type"] != "stream":
                    self._flush_partial()
                self._print(_text_of(event.output))
            case CellFinished():
                self._done = event.number
                self._flush_partial()
                if event.error:
                    fate = "ended as announced with" if event.expected else "failed with"
                    text = f"[{event.number}/{self._total}] {fate} {event.error} after {_seconds(event.duration_ms)}"
                    self._say(text, "33" if event.expected else "1;31")
            case RunFinished():
                self._flush_partial()
                ended = f"{event.failed} failed" if event.failed else "none failed"
                executed = f"{event.executed} of {_count(self._total, 'cell')} run, {ended}"
                self._say(f"{executed}, {_seconds(event.duration_ms)}", "1;31" if event.failed else "32")
            case _:
                assert_never(event)

    def _say(self, text: str, style: str = "") -> None:
        """Write a lasting line of progress."""
        text = printable(text)
        text = f"\x1b[{style}m{text}\x1b[0m" if style and self._err_colored else text
        self._write(self._err, f"{_ERASE_LINE if self._live else ''}{text}\n")

    def _print(self, text: str) -> None:
        """Print a cell's text. An unfinished line waits for its end, as the line of progress would break it."""
        lines, newline, rest = text.rpartition("\n")
        if newline:
            self._emit("".join((*self._partial, lines, newline)))
            self._partial = []
        if rest:
            self._partial.append(rest)

    def _flush_partial(self) -> None:
        if self._partial:
            self._emit("".join((*self._partial, "\n")))
            self._partial = []

    def _emit(self, text: str) -> None:
        """Write whole lines. A bar that redraws itself with carriage returns shows its last state."""
        if "\r" in text:
            text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
        if not self._out_colored:
            text = _CONTROL.sub("", text)
        if self._live:
            self._write(self._err, _ERASE_LINE)
        self._write(self._out, text)

    def _write(self, stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except OSError as exc:
            # The reader went away (`capsule run … | head`), or the disk is full: the run goes on, and its notebook is
            # written.
            if stream is self._out and not isinstance(exc, BrokenPipeError):
                self.trouble = exc.strerror or str(exc)
            silence(stream)

    def _redraw(self) -> None:
        while not self._closed.wait(REDRAW_MS / 1000):
            with self._lock:
                self._write(self._err, _ERASE_LINE + self._progress())

    def _progress(self) -> str:
        now = time.monotonic()
        width = get_terminal_size().columns - 1
        filled = 20 * self._done // self._total if self._total else 0
        bar = "━" * filled + "╌" * (20 - filled)
        began = self._cell_began if self._number else self._run_began
        counter = f"{self._done}/{self._total}" if self._total else ""
        return _clip(f"{bar} {counter} {now - began:5.1f} s  {self._label}", width)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(duration_ms: float) -> str:
    return f"{duration_ms / 1000:.1f} s"


def _first_line(source: str) -> str:
    lines = source.strip().splitlines()
    return printable(_CONTROL.sub("", lines[0])) + (" …" if len(lines) > 1 else "")


def _clip(text: str, width: int) -> str:
    """Cut a text to a width in terminal columns; wide characters take two."""
    columns = 0
    for index, character in enumerate(text):
        columns += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if columns > width:
            return text[:index]
    return text


def _text_of(output: NotebookNode) -> str:
    """A text for an output of the notebook format; what is no text is named with its size."""
    match output["output_type"]:
        case "stream":
            return str(output["text"])
        case "error":
            return "\n".join(output["traceback"] or [f"{output['ename']}: {output['evalue']}"]) + "\n"
        case "execute_result" | "display_data":
            return _text_of_bundle(output["data"])
        case other:
            return f"[{other}]\n"


def _text_of_bundle(data: Mapping[str, Any]) -> str:
    for mime, content in data.items():
        if mime.startswith("image/"):
            return f"[{mime}, {_size_note(mime, content)}]\n"
    for mime in ("text/plain", "text/markdown", "text/latex"):
        if mime in data:
            return str(data[mime]) + "\n"
    return "".join(f"[{mime}, {_bytes(len(str(content)))}]\n" for mime, content in data.items())


def _size_note(mime: str, content: Any) -> str:
    if mime == "image/svg+xml":
        return _bytes(len(str(content).encode()))
    try:
        raw = base64.b64decode(str(content))
    except binascii.Error:
        return "not readable"
    # PNG (RFC 2083, 11.2.1): the first chunk is IHDR; width and height are its first two 4-byte integers.
    if raw[12:16] == b"IHDR":
        width, height = int.from_bytes(raw[16:20]), int.from_bytes(raw[20:24])
        return f"{width}x{height} pixels, {_bytes(len(raw))}"
    return _bytes(len(raw))


def _bytes(size: int) -> str:
    return f"{size / 1000:.1f} kB" if size >= 1000 else f"{size} bytes"


def stderr_display(environ: Mapping[str, str]) -> RunDisplay:
    """The display of a command: the process's own streams."""
    return RunDisplay(sys.stdout, sys.stderr, environ)
