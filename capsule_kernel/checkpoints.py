"""Checkpoints for programs: what `%checkpoint` and `%restore` do, and what any Python process can read of the store.

`save` and `restore` work in a cell; `listing`, `load`, `delete` and `collect` anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capsule_kernel.clock import Clock
from capsule_kernel.errors import StoreUnavailable
from capsule_kernel.folders import checkpoints_folder

if TYPE_CHECKING:
    from capsule_kernel.state.exchange import Listing, Verdict
    from capsule_kernel.state.restore import Restored
    from capsule_kernel.state.store import Store
    from capsule_kernel.state.sweep import Swept


def save(name: str = "") -> Verdict:
    """Save the variables of this notebook to the disk; when this returns, they are there. As `%checkpoint`.

    Raises:
        ValueError: the name is a number, which means a checkpoint already.
        StateError: it could not be done, or this is not a Capsule kernel; the session is as it was.
    """
    if name.isdigit():
        raise ValueError(f"a checkpoint's name is no number (a number means a checkpoint), got {name!r}")
    verdict: Verdict = _saving().save(name)
    return verdict


def restore(wanted: str = "", *, merge: bool = False, session: str = "", taken_ms: int = 0) -> Restored:
    """Bring back the variables of a checkpoint by its name or number, empty for the newest. As `%restore`.

    Args:
        wanted: the name or number.
        merge: keep variables that the checkpoint has not.
        session: take only a checkpoint of this session; empty: a number may mean any one's.
        taken_ms: take only the checkpoint that was taken then, in ms since 1970 (UTC); 0: any.

    Raises:
        StateError: there is none, or it cannot be used; nothing was changed.
    """
    mode = "merge" if merge else "exact"
    _, restored = _saving().restore(wanted, mode, session=session, taken_ms=taken_ms)
    result: Restored = restored
    return result


def listing(session: str | None = None, *, folder: str = "", cap_bytes: int | None = None) -> list[Listing]:
    """Return what is in the store, session by session.

    Args:
        session: only this one; None: all.
        folder: the store; empty for the user's own.
        cap_bytes: what it may take, to be told with it.

    Raises:
        StateError: the store cannot be read.
    """
    from capsule_kernel.state.exchange import Listing
    from capsule_kernel.state.listing import line_of

    with open_store(folder, is_writable=False) as store:
        found: dict[str, list[Any]] = {}
        for item in store.checkpoints(session):
            found.setdefault(item.session, []).append(line_of(store, item))
        return [
            Listing(
                session=name,
                now_ms=Clock().unix_ms(),
                folder=str(store.folder),
                size_bytes=store.size_bytes(),
                cap_bytes=store.cap_bytes if cap_bytes is None else cap_bytes,
                lines=lines,
            )
            for name, lines in found.items()
        ]


def load(number: int, names: Iterable[str] | None = None, *, folder: str = "") -> dict[str, Any]:
    """Return the variables of a checkpoint in this process: a notebook's results, for a script or another notebook.

    Loading runs the objects' own code; only checkpoints that this user took are accepted.

    Args:
        number: which checkpoint.
        names: which variables, None for all that are there.
        folder: the store; empty for the user's own.

    Raises:
        StateError: there is no such checkpoint, or it cannot be used.
        KeyError: it has no such variable, or it was not saved; the text says why.
    """
    from capsule_kernel.state.loader import Loader
    from capsule_kernel.state.restore import check_python

    values: dict[str, Any] = {}
    with open_store(folder, is_writable=False) as store:
        captured = store.manifest(number).captured
        check_python(captured, str(number))
        namespace: dict[str, Any] = {"__builtins__": __builtins__, "__name__": "__main__"}
        loader = Loader(store, {"namespace": namespace}, captured.names)
        for name in captured.names if names is None else names:
            entry = captured.names.get(name)
            if entry is None:
                raise KeyError(f"checkpoint {number} has no {name!r}")
            reason = entry.reason if entry.value is None else loader.load(entry.value)
            if entry.value is not None and not reason:
                values[name] = loader.value(entry.value)
            elif names is not None:
                raise KeyError(f"{name!r} is not to be had from checkpoint {number}: {reason}")
        namespace.update(values)
    return values


def delete(numbers: Iterable[int], *, folder: str = "") -> None:
    """Delete checkpoints; their room is given back by `collect`.

    Raises:
        StateError: one of them is not there (then none is deleted), or the store cannot be written.
    """
    wanted = list(numbers)
    with open_store(folder) as store:
        there = {item.id for item in store.checkpoints()}
        for number in wanted:
            if number not in there:
                raise StoreUnavailable(str(store.folder), f"there is no checkpoint {number}")
        store.delete(wanted)


def collect(*, folder: str = "") -> Swept:
    """Let go of checkpoints that are old and have no name, and give back the room that nothing needs.

    Raises:
        StateError: the store cannot be written.
    """
    from capsule_kernel.state import sweep

    with open_store(folder) as store:
        return sweep.collect(store, Clock().unix_ms())


def open_store(folder: str = "", *, is_writable: bool = True) -> Store:
    """Return the user's store, or that in `folder`.

    Raises:
        StateError: there is none, or it cannot be opened.
    """
    from capsule_kernel.state.store import Store

    path = Path(checkpoints_folder(os.environ, folder))
    if not path.is_dir():
        raise StoreUnavailable(str(path), "there is no store: no checkpoint was taken yet")
    return Store(path, is_writable=is_writable)


def _saving() -> Any:
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    checkpoints = getattr(getattr(shell, "kernel", None), "checkpoints", None)
    if checkpoints is None:
        raise StoreUnavailable("of this process", "it is no Capsule kernel: only listing and loading work here")
    return checkpoints.saving
