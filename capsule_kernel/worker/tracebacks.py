"""The first traceback of a process takes a tenth of a second: imports, styles, and the expressions of a grammar.

What can be shared is imported before the zygote's first fork. The grammar, half of the time and of little memory, is
made where nobody waits for it: in the zygote while it idles, in a worker that came before that by its reader thread.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

from pygments.lexers.python import PythonLexer

_MODULES = ("stack_data", "executing", "pure_eval", "asttokens", "pygments.formatters.terminal256")

WARM_AFTER_MS = 100
"""For how long nothing is asked before it is made."""


def prepare() -> None:
    """Import what IPython does with the first traceback; afterwards each process would have it to itself."""
    for name in _MODULES:
        # What another version of IPython has no use for may not be there.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def is_cold() -> bool:
    """Return whether this process has not made the grammar yet."""
    return "_tokens" not in vars(PythonLexer)


def warm_grammar() -> None:
    """Make the grammar; in any thread."""
    PythonLexer()


def warm(shell: Any) -> None:
    """Format a traceback as IPython does, and show it to nobody."""
    source = "def warm(value):\n    return value / 0\nwarm(1)\n"
    name = shell.compile.cache(source, 0, raw_code=source)
    try:
        exec(compile(source, name, "exec"), {})  # noqa: S102 - our own three lines
    except ZeroDivisionError as exc:
        shell.InteractiveTB.structured_traceback(type(exc), exc, exc.__traceback__, tb_offset=1)
    shell.compile.forget(name)
