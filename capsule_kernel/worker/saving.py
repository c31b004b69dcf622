"""Saves and restores a worker's namespace: dialogues with the front's keeper, and the child that captures.

Imported when it is first needed. The child has every object as it is at the moment of the fork, writes down what the
store lacks at low priority, and ends.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from capsule_kernel.errors import StoreUnavailable
from capsule_kernel.state import ambient, snapshots
from capsule_kernel.state.exchange import (
    CAPTURE_DEADLINE_S,
    Delete,
    Dialogue,
    Find,
    Found,
    List,
    Listing,
    Named,
    Outcome,
    RemoteSource,
    Save,
    Verdict,
    early_end,
)
from capsule_kernel.state.pickler import Environment
from capsule_kernel.state.restore import Mode, Restored, restore
from capsule_kernel.state.snapshots import Role
from capsule_kernel.wire.worker_messages import Errand, encode_birth
from capsule_kernel.worker.capturing import Capturing
from capsule_kernel.worker.checkpoints import SESSION_NAME
from capsule_kernel.worker.namespace import ENGINE_INTERNALS, USERS_TOO

_PATIENCE_S = 60.0
_OUTCOME_BYTES = 1 << 16
_TOOK_UNKNOWN_S = 5.0
_OUT = "outputs/"
_INPUTS = frozenset({"_i", "_ii", "_iii"})


class Saving:
    """Takes and restores checkpoints of one worker's namespace.

    Args:
        shell: the shell whose namespace it is.
        births: the descriptor on which the front takes new sockets.
        links: the worker's links, which a child leaves alone.
        parked: brackets a fork: the worker's other threads hold no lock inside of it; yields them.
        prctl: prctl(2).
        environ: the environment before user code ran.
        secrets: what must not be written down.
        proof_idle_s: how long to wait, in seconds, until what was taken in the background is proven; 0: it is not.
        event_loop: returns the session's event loop.
    """

    def __init__(
        self,
        *,
        shell: Any,
        births: socket.socket,
        links: tuple[socket.socket, ...],
        parked: Callable[[], AbstractContextManager[list[threading.Thread]]],
        prctl: Callable[..., int],
        environ: dict[str, str] | None,
        secrets: set[str],
        proof_idle_s: float,
        event_loop: Callable[[], Any],
    ) -> None:
        self._shell = shell
        self._births = births
        self._links = links
        self._parked = parked
        self._prctl = prctl
        self._environ = environ
        self._secrets = secrets
        self._proof_idle_s = proof_idle_s
        self._event_loop = event_loop
        self.session = ""
        """What the notebook told; empty: the front knows."""

    def tell_session(self, path: str) -> None:
        """Tell the keeper which notebook this is.

        Raises:
            StateError: the keeper is gone.
        """
        self.session = path
        with self._open() as dialogue:
            dialogue.say(Named(session=path))

    def begin(self, count: int) -> socket.socket:
        """Begin a checkpoint in the background; return the socket on which its end is told (`took_s`).

        Raises:
            OSError: no child can be forked.
            StateError: the keeper cannot be reached.
        """
        return self._fork_capture("", count, is_brief=True)

    # --- when asked --------------------------------------------------------------------------------------------------

    def save(self, label: str = "") -> Verdict:
        """Take a checkpoint now; when this returns, it is on the disk.

        Raises:
            StateError: it could not be taken; the session is as it was.
        """
        began_s = time.monotonic()
        sock = self._fork_capture(label, self._shell.execution_count - 1)
        sock.settimeout(CAPTURE_DEADLINE_S + _PATIENCE_S)
        with sock:
            try:
                data = b"".join(iter(lambda: sock.recv(1 << 16), b""))
            except TimeoutError as exc:
                raise StoreUnavailable("of this kernel", "the capture did not end in time") from exc
        if not data:
            raise StoreUnavailable("of this kernel", early_end(time.monotonic() - began_s))
        outcome = msgspec.msgpack.decode(data, type=Outcome)
        if outcome.verdict is None:
            raise StoreUnavailable("of this kernel", outcome.error)
        return outcome.verdict

    def restore(
        self, wanted: str = "", mode: Mode = "exact", *, session: str = "", taken_ms: int = 0
    ) -> tuple[Found, Restored]:
        """Bring the names of a checkpoint into the namespace.

        Args:
            wanted: a label or a number; empty: the session's newest.
            mode: `exact` removes names that the checkpoint has not; `merge` keeps them.
            session: take only a checkpoint of this session; empty: a number may mean any one's.
            taken_ms: take only the checkpoint that was taken then; 0: any.

        Raises:
            StateError: there is no such checkpoint, or it cannot be used; nothing was changed.
        """
        with self._open() as dialogue:
            dialogue.say(Find(session=self.session, wanted=wanted))
            found = dialogue.hear_answer()
            if not isinstance(found, Found):
                raise StoreUnavailable("of this kernel", f"its keeper answered with {type(found).__name__}")
            about = found.manifest.about
            if about.session != (session or about.session) or about.created_ms != (taken_ms or about.created_ms):
                # Each store counts from one: in another, or after this one was emptied, a number means another one.
                raise StoreUnavailable(
                    "of this kernel",
                    f"its checkpoint {found.checkpoint} is not the one that is meant; it is of {about.session}",
                )
            namespace = self._shell.user_ns
            held = {name for name, entry in found.manifest.captured.names.items() if entry.value is not None}
            restored = restore(
                found.manifest.captured,
                RemoteSource(dialogue),
                namespace,
                engine=self._engine(),
                mode=mode,
                internals=internals_of(namespace, self._shell.internals) - (USERS_TOO & held),
                checkpoint=str(found.checkpoint),
            )
        for name, value in restored.extras.items():
            if name.startswith(_OUT):
                namespace["_oh"][int(name.removeprefix(_OUT))] = value
        return found, restored

    def listing(self) -> Listing:
        """Return the session's checkpoints.

        Raises:
            StateError: the store cannot be read.
        """
        return self._ask_for_listing(List(session=self.session))

    def delete(self, wanted: str) -> Listing:
        """Delete the checkpoint with a label or a number; return those that are left.

        Raises:
            StateError: there is none, or the store cannot be written.
        """
        return self._ask_for_listing(Delete(session=self.session, wanted=wanted))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _ask_for_listing(self, request: List | Delete) -> Listing:
        with self._open() as dialogue:
            dialogue.say(request)
            answer = dialogue.hear_answer()
        if not isinstance(answer, Listing):
            raise StoreUnavailable("of this kernel", f"its keeper answered with {type(answer).__name__}")
        return answer

    @contextlib.contextmanager
    def _open(self) -> Iterator[Dialogue]:
        with Dialogue(self._socket(), patience_s=_PATIENCE_S) as dialogue:
            try:
                yield dialogue
            except OSError as exc:
                raise StoreUnavailable("of this kernel", f"its keeper is gone ({exc})") from exc

    def _socket(self) -> socket.socket:
        """Return a socket whose other end the front's keeper has."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._births, [encode_birth(Errand())], [theirs.fileno()])
            except OSError as exc:
                ours.close()
                raise StoreUnavailable("of this kernel", f"the front cannot be reached ({exc})") from exc
        return ours

    def _engine(self) -> dict[str, Any]:
        shell = self._shell
        return {
            "namespace": shell.user_ns,
            "shell": shell,
            "kernel": shell.kernel,
            "inputs": shell.user_ns.get("_ih"),
            "outputs": shell.user_ns.get("_oh"),
            "folders": shell.user_ns.get("_dh"),
            "stdout": sys.stdout,
            "stderr": sys.stderr,
            "event loop": self._event_loop(),
        }

    def _fork_capture(self, label: str, count: int, *, is_brief: bool = False) -> socket.socket:
        """Fork the child that captures; return the socket on which it says how that went."""
        sock = self._socket()
        result, childs = socket.socketpair()
        before = ambient.read_before_fork()
        ticket = time.monotonic_ns()
        try:
            with sock, childs, self._parked() as own:
                alive = threading.enumerate()
                foreign = [thread for thread in alive if thread not in own and thread is not threading.main_thread()]
                role, helper = snapshots.fork_snapshot()
                if role is Role.SNAPSHOT:
                    result.close()
                    Capturing(
                        request=Save(
                            session=self.session, label=label, after_cell=count, is_attended=not is_brief, ticket=ticket
                        ),
                        dialogue=sock,
                        result=childs,
                        connect=self._socket,
                        namespace=self._shell.user_ns,
                        internals=internals_of(self._shell.user_ns, self._shell.internals),
                        environment=Environment(
                            engine=self._engine(),
                            secret_ids=frozenset(map(id, self._secrets)),
                            secret_hashes=frozenset(
                                hash(form) for text in self._secrets for form in (text, text.encode(errors="replace"))
                            ),
                            secret_texts=frozenset(self._secrets),
                            alive_threads=frozenset(map(id, alive)),
                            has_foreign_threads=bool(foreign),
                        ),
                        around=lambda: ambient.read(before, self._environ) | self._outputs(),
                        is_brief=is_brief,
                        proof_idle_s=self._proof_idle_s,
                    ).run(self._links, self._prctl)
                # A cell may have asked for its children to be nobody's: signal(SIGCHLD, SIG_IGN).
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(helper, 0)
            # The child has its lasting parent now.
            result.send(b"\0")
        except OSError as exc:
            result.close()
            raise StoreUnavailable("of this kernel", f"no process can be forked for it ({exc.strerror})") from exc
        except BaseException:
            result.close()
            raise
        return result

    def _outputs(self) -> dict[str, Any]:
        return {f"{_OUT}{number}": value for number, value in self._shell.user_ns["_oh"].items()}


def internals_of(namespace: dict[Any, Any], engines: Mapping[str, Any]) -> frozenset[str]:
    """Return the engine's names: what IPython needs, and the inputs that it keeps by name.

    Args:
        namespace: the session's variables.
        engines: the values that the engine's names have where user code has not given them its own.
    """
    absent = object()
    users = {
        name
        for name in USERS_TOO & namespace.keys()
        if not any(namespace[name] is own for own in (engines.get(name, absent), vars(builtins).get(name, absent)))
    }
    names = [name for name in list(namespace) if type(name) is str]
    inputs = {name for name in names if name in _INPUTS or (name.startswith("_i") and name[2:].isdigit())}
    return (ENGINE_INTERNALS - users) | inputs | {"__session__", SESSION_NAME}


def took_s(result: socket.socket) -> float | None:
    """Return what a capture in the background took of a processor, None while it goes on.

    Args:
        result: what `Saving.begin` returned.
    """
    result.setblocking(False)
    try:
        data = result.recv(_OUTCOME_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        data = b""
    # One that ended without a word was killed, perhaps for what it took.
    return msgspec.msgpack.decode(data, type=Outcome).took_s if data else _TOOK_UNKNOWN_S
