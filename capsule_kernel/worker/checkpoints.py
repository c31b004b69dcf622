"""Durable checkpoints from the worker's side: when one is due by itself, and who takes and restores them.

The parts that save and restore come in when they are first needed: at an idle moment, or when somebody asks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from capsule_kernel.errors import StateError

if TYPE_CHECKING:
    from capsule_kernel.worker.saving import Saving

_REST = 20
"""After a capture none begins by itself for this many times what it took of a processor."""

SESSION_NAME = "__vsc_ipynb_file__"
"""What VS Code tells a notebook its path by."""


class Checkpoints:
    """Decides when a checkpoint is due.

    Args:
        shell: the shell whose namespace it is.
        births: the descriptor on which the front takes new sockets.
        links: the worker's links, which a child leaves alone.
        is_named: whether the session has a name that goes before what the notebook may tell.
        idle_s: idleness after which a checkpoint is due by itself, in seconds; 0: never.
        proof_idle_s: idleness after such a one until it is proven, in seconds; 0: never.
        parked: brackets a fork: the worker's other threads hold no lock inside of it; yields them.
        prctl: prctl(2).
        event_loop: returns the session's event loop.
    """

    def __init__(
        self,
        *,
        shell: Any,
        births: socket.socket,
        links: tuple[socket.socket, ...],
        is_named: bool,
        idle_s: float,
        proof_idle_s: float,
        parked: Callable[[], AbstractContextManager[list[threading.Thread]]],
        prctl: Callable[..., int],
        event_loop: Callable[[], Any],
    ) -> None:
        self._shell = shell
        self._births = births
        self._links = links
        self._is_named = is_named
        self._idle_s = idle_s
        self._proof_idle_s = proof_idle_s
        self._parked = parked
        self._prctl = prctl
        self._event_loop = event_loop
        self._environ: dict[str, str] | None = None
        self._made: Saving | None = None
        self._told_session = ""
        self._is_due = False
        self._count = 0
        self._under_way: socket.socket | None = None
        self._rest_until_s = 0.0
        self.secrets: set[str] = set()
        """What `getpass` returned: never written down."""

    @property
    def saving(self) -> Saving:
        """What takes and restores them."""
        if self._made is None:
            from capsule_kernel.worker.saving import Saving

            self._made = Saving(
                shell=self._shell,
                births=self._births,
                links=self._links,
                parked=self._parked,
                prctl=self._prctl,
                environ=self._environ,
                secrets=self.secrets,
                proof_idle_s=self._proof_idle_s,
                event_loop=self._event_loop,
            )
        return self._made

    @property
    def patience_s(self) -> float | None:
        """How long to wait for a message before `take_when_due`; None: nothing is due."""
        if not self._is_due:
            return None
        return max(self._idle_s, self._rest_until_s - time.monotonic())

    def note_start(self) -> None:
        """Note what the environment is before user code runs."""
        self._environ = dict(os.environ)

    def note_run(self, count: int, *, is_interactive: bool) -> None:
        """Note that cell `count` has run."""
        self._count = count
        self._is_due = self._is_due or (is_interactive and self._idle_s > 0)
        path = self._shell.user_ns.get(SESSION_NAME)
        if path is not None and path != self._told_session and isinstance(path, str) and not self._is_named:
            self._told_session = path
            with contextlib.suppress(StateError, OSError):
                self.saving.tell_session(path)

    def take_when_due(self) -> None:
        """Begin a checkpoint in the background, if the last one has ended and rested."""
        if self._under_way is not None:
            from capsule_kernel.worker.saving import took_s

            took = took_s(self._under_way)
            if took is None:
                self._rest_until_s = time.monotonic() + self._idle_s
                return
            self._under_way.close()
            self._under_way = None
            self._rest_until_s = time.monotonic() + _REST * took
        if time.monotonic() < self._rest_until_s:
            return
        self._is_due = False
        # Out of processes, for example: the next cell makes it due again.
        with contextlib.suppress(OSError, StateError):
            self._under_way = self.saving.begin(self._count)
