"""State that cells give to IPython's shell: extensions, aliases, magics, event callbacks, how results are shown.

Where there is no shell, as in a process that proves a checkpoint, there is nothing to read or to put back.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from capsule_kernel.state.revive import NOTHING

_KINDS = ("line", "cell")


def _shell() -> Any:
    loaded = sys.modules.get("IPython.core.getipython")
    return None if loaded is None else loaded.get_ipython()


def _is_of_a_cell(found: object) -> bool:
    return isinstance(found, types.FunctionType) and found.__module__ == "__main__"


def read_extensions() -> Any:
    """Return the names of the extensions that are loaded."""
    shell = _shell()
    return NOTHING if shell is None else sorted(shell.extension_manager.loaded)


def load_extensions(names: list[str]) -> None:
    """Load those that are not there."""
    shell = _shell()
    for name in names if shell is not None else ():
        if name not in shell.extension_manager.loaded:
            shell.extension_manager.load_extension(name)


def read_aliases() -> Any:
    """Return the aliases and their commands."""
    shell = _shell()
    return NOTHING if shell is None else dict(shell.alias_manager.aliases)


def define_aliases(commands: dict[str, str]) -> None:
    """Define those that are not as they were."""
    shell = _shell()
    known = {} if shell is None else dict(shell.alias_manager.aliases)
    for name, command in commands.items() if shell is not None else ():
        if known.get(name) != command:
            shell.alias_manager.define_alias(name, command)


def read_magics() -> Any:
    """Return the functions of cells that are magics, by kind and name."""
    shell = _shell()
    if shell is None:
        return NOTHING
    magics = shell.magics_manager.magics
    found = {kind: {name: each for name, each in magics[kind].items() if _is_of_a_cell(each)} for kind in _KINDS}
    return found if any(found.values()) else NOTHING


def register_magics(functions: dict[str, dict[str, Any]]) -> None:
    """Register them again."""
    shell = _shell()
    if shell is not None:
        for kind in _KINDS:
            shell.magics_manager.magics[kind].update(functions[kind])


def read_callbacks() -> Any:
    """Return the functions of cells that are called at the shell's events, by event."""
    shell = _shell()
    if shell is None:
        return NOTHING
    found = {event: list(filter(_is_of_a_cell, each)) for event, each in shell.events.callbacks.items()}
    return {event: functions for event, functions in found.items() if functions} or NOTHING


def register_callbacks(functions: dict[str, list[Any]]) -> None:
    """Register those that are not there, in their order."""
    shell = _shell()
    for event, each in functions.items() if shell is not None else ():
        for function in each:
            if function not in shell.events.callbacks[event]:
                shell.events.register(event, function)


def read_display() -> Any:
    """Return what `%precision`, `%xmode` and `%config InteractiveShell.ast_node_interactivity` have set."""
    shell = _shell()
    if shell is None:
        return NOTHING
    return {
        # Libraries put a formatter of their own there, which has none (rich).
        "precision": getattr(shell.display_formatter.formatters["text/plain"], "float_precision", None),
        "xmode": shell.InteractiveTB.mode,
        "interactivity": shell.ast_node_interactivity,
    }


def set_display(settings: dict[str, Any]) -> None:
    """Set it again where it is otherwise."""
    shell = _shell()
    if shell is None:
        return
    plain = shell.display_formatter.formatters["text/plain"]
    if settings["precision"] is not None and getattr(plain, "float_precision", None) != settings["precision"]:
        plain.float_precision = settings["precision"]
    if shell.InteractiveTB.mode != settings["xmode"]:
        shell.InteractiveTB.set_mode(settings["xmode"])
    if shell.ast_node_interactivity != settings["interactivity"]:
        shell.ast_node_interactivity = settings["interactivity"]
