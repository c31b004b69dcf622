"""The debugger in the worker: debugpy's tracing, which speaks the Debug Adapter Protocol over a socket pair.

Neither a port nor an adapter process is needed: the front is the other end. Nothing of it is loaded before a front end
starts the debugger or asks for variables. Tracing is off in what user code forks, and in snapshots.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import socket
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from IPython.core.inputtransformer2 import leading_empty_lines

from capsule_kernel.wire.worker_messages import Debuggable, encode_birth
from capsule_kernel.worker import interrupt
from capsule_kernel.worker.interrupt import Stopped
from capsule_kernel.worker.variables import Variables, load_debugger

if TYPE_CHECKING:
    from capsule_kernel.worker.shell import ZMQInteractiveShell


def hide_thread(thread: threading.Thread) -> None:
    """Have the debugger neither stop nor list a thread of the kernel's own."""
    # The names that pydevd looks for.
    thread.__dict__.update(pydev_do_not_trace=True, is_pydev_daemon_thread=True)


_CALLED_BY_DEBUGGER = frozenset({threading.__file__, queue.__file__, interrupt.__file__})
"""Whose frames may stand between the debugger's and an interrupt's."""


class Debugging:
    """Starts and stops tracing, and resumes what it has stopped."""

    def __init__(self, *, shell: ZMQInteractiveShell, births: socket.socket, folder: str) -> None:
        self._shell = shell
        self._variables = Variables(shell, folder=folder)
        self._births = births
        self._lock = threading.Lock()
        self._is_on = False
        self._has_fork_hook = False
        self._folder = ""
        self._hook: Any = None
        self._removed_at: int | None = None

    def start(self) -> None:
        """Begin to trace, in a thread of its own since imports take a second; the front gets the socket."""
        self._run(self._start, "capsule-debugger")

    def stop(self) -> None:
        """End tracing, and its threads."""
        self._run(self._stop, "capsule-debugger")

    def answer(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the body of the response to a request that needs no tracing; called in the reader thread."""
        return self._variables.answer(command, arguments)

    def renew(self) -> None:
        """Begin anew: this process was a snapshot."""
        self._lock = threading.Lock()

    def interrupted(self, frame: FrameType | None) -> Stopped:
        """Return what the debugger does in `frame`; where it waits for the user, threads that it stopped go on."""
        if not self._is_on:
            return Stopped.NO
        called = ""
        while frame is not None and frame.f_code.co_filename in _CALLED_BY_DEBUGGER:
            called = frame.f_code.co_filename
            frame = frame.f_back
        if frame is None or not frame.f_code.co_filename.startswith(self._folder):
            # User code, perhaps what somebody evaluates in a frame that is stopped.
            return Stopped.NO
        if frame.f_code.co_name != "_do_wait_suspend" or called != threading.__file__:
            return Stopped.WORKS
        _resume_all()
        return Stopped.WAITS

    def _run(self, function: Any, name: str) -> None:
        thread = threading.Thread(target=function, name=name, daemon=True)
        hide_thread(thread)
        thread.start()

    def _start(self) -> None:
        with self._lock:
            if self._is_on:
                self._end_tracing()
            ours, theirs = socket.socketpair()
            try:
                self._trace(ours)
                message = Debuggable(rules=self._rules())
                socket.send_fds(self._births, [encode_birth(message)], [theirs.fileno()])
            except Exception as exc:  # noqa: BLE001 - debugpy is missing or fails: the front end is told
                ours.close()
                self._births.send(encode_birth(Debuggable(error=f"{type(exc).__name__}: {exc}")))
            finally:
                theirs.close()

    def _trace(self, sock: socket.socket) -> None:
        pydevd = load_debugger()
        connect = pydevd.PyDB.connect
        pydevd.PyDB.connect = lambda database, *_: database.initialize_network(sock)
        try:
            pydevd.settrace(host="capsule", port=0, suspend=False, wait_for_ready_to_run=False, notify_stdin=False)
        finally:
            pydevd.PyDB.connect = connect
        self._folder = os.path.dirname(pydevd.__file__)
        self._is_on = True
        self._hook, sys.breakpointhook = sys.breakpointhook, _stop_here
        transforms = self._shell.input_transformer_manager.cleanup_transforms
        if leading_empty_lines in transforms:
            # Lines are to be counted as the front end does.
            self._removed_at = transforms.index(leading_empty_lines)
            del transforms[self._removed_at]
        if not self._has_fork_hook:
            self._has_fork_hook = True
            os.register_at_fork(after_in_child=self._forget_in_child)

    def _stop(self) -> None:
        with self._lock:
            if self._is_on:
                self._end_tracing()

    def _end_tracing(self) -> None:
        self._put_back()
        sys.modules["pydevd"].stoptrace()
        _forget_debugger()

    def _put_back(self) -> None:
        self._is_on = False
        sys.breakpointhook = self._hook
        if self._removed_at is not None:
            self._shell.input_transformer_manager.cleanup_transforms.insert(self._removed_at, leading_empty_lines)
            self._removed_at = None

    def _forget_in_child(self) -> None:
        if self._is_on:
            self._put_back()
            importlib.import_module("_pydevd_sys_monitoring.pydevd_sys_monitoring").stop_monitoring(all_threads=True)
            importlib.import_module("_pydev_bundle.pydev_monkey").undo_patch_thread_modules()
            _forget_debugger()

    def _rules(self) -> list[str]:
        """Return what is not the user's: the packages and modules that the kernel itself has loaded, as patterns."""
        found: set[str] = set()
        for name in self._shell.own_modules:
            file = getattr(sys.modules.get(name), "__file__", None)
            if isinstance(file, str) and file:
                is_package = os.path.basename(file).startswith("__init__.")
                found.add(os.path.join(os.path.dirname(file), "**") if is_package else file)
        folders = tuple(pattern[:-2] for pattern in found if pattern.endswith("**"))
        return sorted(
            pattern
            for pattern in found
            if not any(pattern.startswith(folder) and pattern != folder + "**" for folder in folders)
        )


def _resume_all() -> None:
    importlib.import_module("_pydevd_bundle.pydevd_thread_lifecycle").resume_threads("*")


def _forget_debugger() -> None:
    importlib.import_module("_pydevd_bundle.pydevd_constants").GlobalDebuggerHolder.global_dbg = None
    with contextlib.suppress(AttributeError):
        del threading.main_thread().additional_info  # type: ignore[attr-defined]  # pydevd's


def _stop_here(*_: Any, **__: Any) -> None:
    """Be `breakpoint()` while the debugger is on."""
    sys.modules["pydevd"].settrace(suspend=True, stop_at_frame=sys._getframe().f_back)  # noqa: SLF001 - the caller's frame
