"""The first traceback of a process takes a tenth of a second: imports, grammars, styles.

The zygote formats one for nobody before it forks, so that all workers have it and share its memory.
"""

from __future__ import annotations

from typing import Any


def warm(shell: Any) -> None:
    """Format one as IPython does, and show it to nobody."""
    source = "def warm(value):\n    return value / 0\nwarm(1)\n"
    name = shell.compile.cache(source, 0, raw_code=source)
    try:
        exec(compile(source, name, "exec"), {})  # noqa: S102 - our own three lines
    except ZeroDivisionError as exc:
        shell.InteractiveTB.structured_traceback(type(exc), exc, exc.__traceback__, tb_offset=1)
    shell.compile.forget(name)
