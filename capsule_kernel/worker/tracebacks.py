"""The first traceback of a process takes a tenth of a second: imports, styles, and the expressions of a grammar.

What can be shared is imported before the zygote's first fork. The grammar, half of the time and of little memory, is
made where nobody waits for it: in the zygote while it idles, in a worker that came before that by its reader thread.
"""

from __future__ import annotations

import executing
import stack_data
from IPython.core.ultratb import AutoFormattedTB
from pygments.lexers.python import PythonLexer

WARM_AFTER_MS = 100
"""For how long nothing is asked before it is made."""

_KNOWN = {executing: "2.", stack_data: "0.6."}
"""The versions whose attributes `sources` provides; with others, they read files themselves."""


def prepare() -> None:
    """Have all that IPython makes with the first traceback but the grammar; after a fork each process would make it."""
    if all(getattr(library, "__version__", "").startswith(begin) for library, begin in _KNOWN.items()):
        from capsule_kernel.worker import sources

        sources.install()
    formatter = AutoFormattedTB(mode="Context", theme_name="nocolor", tb_offset=0)
    try:
        int("")
    except ValueError as exc:
        formatter.structured_traceback(type(exc), exc, exc.__traceback__)


def is_cold() -> bool:
    """Return whether this process has not made the grammar yet."""
    return "_tokens" not in vars(PythonLexer)


def warm_grammar() -> None:
    """Make the grammar; in any thread."""
    PythonLexer()
