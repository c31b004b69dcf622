"""The first traceback of a process takes a tenth of a second: imports, grammars, styles. It is formatted for nobody.

The zygote does it after it has forked the first worker, so that the others have it; the first worker does it itself, in
an idle moment, so that nobody waits for it at the start.
"""

from __future__ import annotations

from typing import Any

_is_warm = [False]


def are_warm() -> bool:
    """Return whether this process, or the one that it was forked from, has formatted a traceback."""
    return _is_warm[0]


def warm(shell: Any) -> None:
    """Format one as IPython does, and show it to nobody."""
    if _is_warm[0]:
        return
    _is_warm[0] = True
    source = "def warm(value):\n    return value / 0\nwarm(1)\n"
    name = shell.compile.cache(source, 0, raw_code=source)
    try:
        exec(compile(source, name, "exec"), {})  # noqa: S102 - our own three lines
    except ZeroDivisionError as exc:
        shell.InteractiveTB.structured_traceback(type(exc), exc, exc.__traceback__, tb_offset=1)
    shell.compile.forget(name)
