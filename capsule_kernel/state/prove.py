"""`python -m capsule_kernel.state.prove SOCKET NUMBER LABELS`: loads a checkpoint in this fresh process.

What came of it goes to standard output: an `Again`. Descriptor SOCKET leads to the keeper; LABELS name the engine's
objects, in whose places stand-ins are. Started by the child that captured.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from typing import Any

import msgspec

from capsule_kernel.state.exchange import Dialogue, Find, Found, RemoteSource
from capsule_kernel.state.verify import recapture

_PATIENCE_S = 120.0
_PR_SET_PDEATHSIG = 1


class StandIn:
    """In the place of an object of the engine: it has whatever is asked for, and does nothing."""

    def __getattr__(self, name: str) -> StandIn:
        """Return another one, for instance for a bound method that a variable refers to."""
        if name.startswith("__"):
            # What Python itself looks for, to treat an object in another way.
            raise AttributeError(name)
        return StandIn()

    def __call__(self, *_args: Any, **_kw: Any) -> None:
        """Do nothing."""


def main(descriptor: int, number: str, labels: list[str]) -> int:
    """Load the checkpoint, take it apart again, and say what came of it; return the exit status."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.alarm(int(_PATIENCE_S))
    out = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    # What the objects' code prints is nobody's.
    os.dup2(null, 1)
    main_module = sys.modules["__main__"]
    namespace: dict[str, Any] = main_module.__dict__
    names = set(namespace)
    for name in names - {"__name__", "__builtins__", "__spec__", "__loader__", "__package__"}:
        del namespace[name]
    engine: dict[str, Any] = {label: StandIn() for label in labels if label} | {"namespace": namespace}
    with Dialogue(socket.socket(fileno=descriptor), patience_s=_PATIENCE_S) as dialogue:
        dialogue.say(Find(session="", wanted=number))
        found = dialogue.hear_answer()
        if not isinstance(found, Found):
            return 1
        again = recapture(found.manifest.captured, RemoteSource(dialogue), namespace, engine)
    data = msgspec.msgpack.encode(again)
    while data:
        data = data[os.write(out, data) :]
    return 0


if __name__ == "__main__":
    from capsule_kernel.state.prove import main as _main

    # Without exit handlers, and without flushing files that the session has open too.
    os._exit(_main(int(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")))
