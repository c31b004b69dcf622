"""Shells in the test's own process, with what IPython changes in it put back afterwards."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from traitlets.config import Config

from capsule_kernel.worker.shell import ZMQInteractiveShell


@contextmanager
def surroundings() -> Iterator[None]:
    """Put back environment, `__main__`, `sys` and `builtins` as they were."""
    environ, path, main = dict(os.environ), list(sys.path), sys.modules["__main__"]
    names, system = dict(vars(builtins)), dict(vars(sys))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environ)
        sys.path[:] = path
        sys.modules["__main__"] = main
        for module, before in ((builtins, names), (sys, system)):
            for name in set(vars(module)) - set(before):
                delattr(module, name)
            for name, value in before.items():
                if getattr(module, name, None) is not value:
                    setattr(module, name, value)


def worker_shell(folder: Path) -> Any:
    """The shell of a worker. `Any`, like the other, since IPython's methods have no types."""
    kind: Any = ZMQInteractiveShell
    return kind(profile_dir=_profile(folder))


def ipython_shell(folder: Path) -> Any:
    """IPython's own, as a terminal has it: the oracle."""
    config = Config()
    config.HistoryManager.enabled = False
    kind: Any = InteractiveShell
    return kind(profile_dir=_profile(folder), config=config)


def _profile(folder: Path) -> Any:
    kind: Any = ProfileDir
    return kind.create_profile_dir(str(folder))
