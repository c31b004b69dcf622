"""`pdb` is IPython's debugger, as ipykernel has it: one that asks the front end and can be interrupted.

Nothing is imported before user code does so, or stops at a `breakpoint()`.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

DEBUGGER = "IPython.core.debugger"


def install(kernel: Any) -> None:
    """Have `breakpoint()` open IPython's debugger; a client that cannot be asked passes it by, as with ipykernel."""

    def hook(*arguments: Any, **keywords: Any) -> Any:
        if os.environ.get("PYTHONBREAKPOINT"):
            return sys.__breakpointhook__(*arguments, **keywords)  # noqa: T100 - as Python would do
        if kernel.allow_stdin:
            importlib.import_module(DEBUGGER).set_trace(sys._getframe().f_back, *arguments, **keywords)  # noqa: SLF001 - the caller's frame, as pdb takes it
        return None

    sys.breakpointhook = hook


def on_pdb(_: ModuleType) -> None:
    """Load IPython's debugger with pdb, unless it is the one that does so."""
    if DEBUGGER not in sys.modules:
        importlib.import_module(DEBUGGER)


def on_debugger(debugger: Any) -> None:
    """Put IPython's debugger in the place of pdb's."""
    pdb: Any = sys.modules["pdb"]
    pdb.Pdb = debugger.Pdb = debugger.InterruptiblePdb
    pdb.set_trace = debugger.set_trace
