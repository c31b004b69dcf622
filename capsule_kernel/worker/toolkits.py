"""`%gui`: windows of a toolkit live while the kernel's loop runs, which has the toolkit handle its events now and then.

The loop stays asyncio's: one of the toolkit's own would keep widgets, completions and interrupts waiting. A cell that
calculates keeps the windows waiting, as on ipykernel.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import os
from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError

_PAUSE_S = 0.02
_EVENTS_AT_ONCE = 100
_QT = {
    "qt": ("PySide6", "PyQt6", "PyQt5", "PySide2"),
    "qt5": ("PyQt5", "PySide2"),
    "qt6": ("PyQt6", "PySide6"),
}

Turn = Callable[[], object]
"""Handles the events that wait, and returns."""


class Toolkits:
    """The toolkit in use, if there is one."""

    def __init__(self) -> None:
        self._turn: Turn | None = None
        self._is_due = False
        # Of no request: what a window's callbacks write belongs to the newest cell.
        self._context = contextvars.Context()

    def enable(self, name: str) -> None:
        """Let the windows of the toolkit `name` live.

        Raises:
            UsageError: it is not supported, not installed, or has no display.
        """
        open_toolkit = TOOLKITS.get(name)
        if open_toolkit is None:
            known = ", ".join(sorted(TOOLKITS))
            raise UsageError(f"the event loop of {name!r} is not supported by this kernel; those are: asyncio, {known}")
        try:
            self._turn = open_toolkit(name)
        except ImportError as exc:
            raise UsageError(f"the toolkit of {name!r} is not installed: {exc}") from exc
        self._later()

    def disable(self) -> None:
        """Leave the windows alone."""
        self._turn = None

    def _later(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_event_loop().call_later(_PAUSE_S, self._take_turn, context=self._context)

    def _take_turn(self) -> None:
        self._is_due = False
        if self._turn is None:
            return
        try:
            self._turn()
        finally:
            self._later()


def _open_tk(_name: str) -> Turn:
    tkinter = importlib.import_module("tkinter")
    no_wait: int = importlib.import_module("_tkinter").DONT_WAIT
    # Tcl's events are a thread's, whichever interpreter they are for: this one needs no window, and no display.
    interpreter = tkinter.Tcl()

    def turn() -> None:
        for _ in range(_EVENTS_AT_ONCE):
            if not interpreter.dooneevent(no_wait):
                return

    return turn


def _open_qt(name: str) -> Turn:
    widgets = _first_of(f"{binding}.QtWidgets" for binding in _QT[name])
    if not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))):
        # Qt ends the whole process.
        raise UsageError(f"{name!r} has no display to show windows on: DISPLAY is not set")
    application = widgets.QApplication.instance() or widgets.QApplication([" "])
    turn: Turn = application.processEvents
    return turn


def _first_of(names: Any) -> Any:
    """Import the first of these modules that is there.

    Raises:
        ImportError: none is.
    """
    missing: list[str] = []
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError as exc:
            missing.append(str(exc))
    raise ImportError("; ".join(missing))


TOOLKITS: dict[str, Callable[[str], Turn]] = {"tk": _open_tk, **dict.fromkeys(_QT, _open_qt)}
