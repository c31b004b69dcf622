"""What a debugger's user sees of the namespace while nothing is stopped, and cells as files.

The variables are shown as debugpy shows them. Runs in the reader thread, with the live namespace. Source: Jupyter
messaging, "Additions to the DAP".
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from capsule_kernel.worker.compiling import CELL_NAME_SEED, murmur2
from capsule_kernel.worker.mimejson import encode_content

if TYPE_CHECKING:
    from capsule_kernel.worker.shell import ZMQInteractiveShell

_NO_WARNING = "PYDEVD_DISABLE_FILE_VALIDATION"


def load_debugger() -> Any:
    """Import debugpy without what it does to the process; return its `pydevd`."""
    hook = sys.breakpointhook
    had_warning = _NO_WARNING in os.environ
    # About frozen modules, on stderr: they are the standard library's, which nobody debugs in a notebook.
    os.environ.setdefault(_NO_WARNING, "1")
    try:
        importlib.import_module("debugpy.server.api")
        return importlib.import_module("pydevd")
    finally:
        sys.breakpointhook = hook
        if not had_warning:
            os.environ.pop(_NO_WARNING, None)


class Variables:
    """Answers what needs no tracing."""

    def __init__(self, shell: ZMQInteractiveShell, *, folder: str) -> None:
        self._shell = shell
        self._folder = folder
        # What a reference stands for: it is the identity of an object, which is kept for that.
        self._known: dict[int, Any] = {}

    def answer(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the body of the response to `command`.

        Raises:
            LookupError, OSError: there is no such variable or file.
        """
        match command:
            case "inspectVariables":
                return {"variables": self._all()}
            case "variables":
                return {"variables": self._in(int(arguments["variablesReference"]), arguments)}
            case "richInspectVariables":
                return self._rich(str(arguments["variableName"]))
            case "dumpCell":
                return {"sourcePath": self._dump(str(arguments["code"]))}
            case "source":
                return {"content": _text_of_file(str(arguments["source"]["path"]))}
            case "modules":
                return _modules(int(arguments.get("startModule", 0)), arguments.get("moduleCount"))
            case _:
                raise LookupError(f"{command} is not known")

    def _all(self) -> list[dict[str, Any]]:
        load_debugger()
        frames = importlib.import_module("_pydevd_bundle.pydevd_suspended_frames")
        presentation = importlib.import_module("_pydevd_bundle.pydevd_api").PyDevdAPI.VariablePresentation()
        self._known.clear()
        namespace = dict(self._shell.user_ns)
        frame = SimpleNamespace(f_code=SimpleNamespace(co_name="<module>"), f_locals=namespace, f_globals=namespace)
        top = frames._FrameVariable(SimpleNamespace(variable_presentation=presentation), frame, self._register)  # noqa: SLF001 - how debugpy shows variables
        return [child.get_var_data() for child in top.get_children_variables()]

    def _register(self, variable: Any) -> None:
        self._known[variable.get_variable_reference()] = variable

    def _in(self, reference: int, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        if reference not in self._known:
            raise LookupError("this variable is not shown any more")
        children = self._known[reference].get_children_variables()
        start = int(arguments.get("start") or 0)
        count = arguments.get("count") or None
        return [child.get_var_data() for child in itertools.islice(children, start, count and start + int(count))]

    def _rich(self, name: str) -> dict[str, Any]:
        if name not in self._shell.user_ns:
            return {"data": {}, "metadata": {}}
        return rich(self._shell, self._shell.user_ns[name])

    def _dump(self, code: str) -> str:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = os.environ.get("IPYKERNEL_CELL_NAME") or f"{self._folder}{murmur2(code, CELL_NAME_SEED)}.py"
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            file.write(code)
        return path


def rich(shell: Any, value: Any) -> dict[str, Any]:
    """Return how `value` is displayed: its MIME bundle as `data`, with `metadata`."""
    data, metadata = shell.display_formatter.format(value)
    return {"data": data, "metadata": {name: each for name, each in metadata.items() if name in data}}


def rich_text(value: Any) -> str:
    """Return what `rich` does as JSON; the debugger evaluates a call of this in a frame that is stopped."""
    from IPython.core.getipython import get_ipython

    return encode_content(rich(get_ipython(), value)).decode()


def _text_of_file(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _modules(start: int, count: Any) -> dict[str, Any]:
    modules = list(sys.modules.copy().values())
    stop = len(modules) if count is None else start + int(count)
    found = []
    for number, module in enumerate(modules[start:stop], start):
        origin = getattr(getattr(module, "__spec__", None), "origin", None)
        if isinstance(origin, str) and origin.endswith(".py"):
            found.append({"id": number, "name": getattr(module, "__name__", ""), "path": origin})
    return {"modules": found, "totalModules": len(modules)}
