"""Room for Python's frames, without which a call at an unlucky depth costs a hundred times as much as elsewhere.

CPython (3.11 and later) keeps the frames of a thread in chunks of 16 KB. A call that does not fit into the last one
maps another, and its return unmaps it: a loop that calls from such a depth does both, and takes a page fault, each
time. How deep the frames of an engine lie decides which of its users' loops that is. A frame that says that it needs
half a megabyte has the interpreter map a megabyte, of which only what is used takes memory; all that is called from
there shares the other half.

Source: `push_chunk` and `_PyThreadState_PopFrame` in CPython's `Python/pystate.c`.
"""

from __future__ import annotations

from types import FunctionType
from typing import cast

# Chunks grow by doubling: one of a megabyte, for a frame that is a little longer than a half.
_SLOTS = (1 << 19) // 8 + 64


def roomy[F](function: F) -> F:
    """Have what `function` calls find room for some thousand frames in one chunk.

    For the bottom of a main thread's stack: a thread that is started where user code has left no memory could not have
    its megabyte.

    No frame is added, so that as many are left for recursion as before.
    """
    plain = cast("FunctionType", function)
    plain.__code__ = plain.__code__.replace(co_stacksize=_SLOTS)
    return function
