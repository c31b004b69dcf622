"""The child that captures: a fork of the worker that writes its objects down, and has a fresh process prove the result.

It does nothing that the worker, the session or a person could notice, and ends with the zygote or at its deadline.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from capsule_kernel.errors import StateError, StoreUnavailable
from capsule_kernel.state.capture import capture
from capsule_kernel.state.exchange import (
    CAPTURE_DEADLINE_S,
    Base,
    Dialogue,
    Find,
    Found,
    Outcome,
    Proven,
    RemoteSource,
    Save,
    Unproven,
    Verdict,
    as_message,
)
from capsule_kernel.state.pickler import Environment
from capsule_kernel.state.reasons import reason_of
from capsule_kernel.state.verify import Again, verdicts

_BRIEF_S = 10.0
_NICE = 19
_PR_SET_PDEATHSIG = 1


class Capturing:
    """One capture, in the child that was forked for it.

    Args:
        request: what the keeper is asked for.
        dialogue: the socket to the keeper.
        result: where the worker is told how it went; closed by the worker when it wants no proof.
        connect: makes another socket to the keeper.
        namespace: the variables.
        internals: names that are not.
        environment: what is around them.
        around: returns the state that is not a variable.
        is_brief: whether the worker goes on meanwhile: it is told little, and proof waits for a longer rest,
        proof_idle_s: of so many seconds; 0: there is none.
    """

    def __init__(
        self,
        *,
        request: Save,
        dialogue: socket.socket,
        result: socket.socket,
        connect: Callable[[], socket.socket],
        namespace: dict[str, Any],
        internals: frozenset[str],
        environment: Environment,
        around: Callable[[], Mapping[str, Any]],
        is_brief: bool,
        proof_idle_s: float,
    ) -> None:
        self._request = request
        self._dialogue = dialogue
        self._result = result
        self._connect = connect
        self._namespace = namespace
        self._internals = internals
        self._environment = environment
        self._around = around
        self._is_brief = is_brief
        self._proof_idle_s = proof_idle_s

    def run(self, links: tuple[socket.socket, ...], prctl: Callable[..., int]) -> NoReturn:
        """Capture, tell, prove, and end this process."""
        try:
            if not self._result.recv(1):
                os._exit(0)
            _leave_the_worker(links, prctl)
            verdict = self._converse()
            told = Outcome(verdict=None if self._is_brief else verdict, took_s=time.process_time())
            self._result.sendall(msgspec.msgpack.encode(told))
            if not self._is_brief:
                self._result.close()
            if not self._is_brief or self._has_rest():
                self._prove_or_say(verdict.checkpoint)
        except BaseException as exc:  # noqa: BLE001 - the child's top: pickling runs any object's code
            text = str(exc) if isinstance(exc, StateError) else f"{type(exc).__name__}: {exc}"
            with contextlib.suppress(BaseException):
                self._result.sendall(msgspec.msgpack.encode(Outcome(error=text)))
        finally:
            os._exit(0)

    def _converse(self) -> Verdict:
        request = msgspec.structs.replace(self._request, not_rolled_back=_outside(self._namespace))
        around = self._around()
        with Dialogue(self._dialogue, patience_s=CAPTURE_DEADLINE_S) as dialogue:
            dialogue.say(request)
            while True:
                answer = dialogue.hear_answer()
                if isinstance(answer, Verdict):
                    return answer
                if not isinstance(answer, Base):
                    raise TypeError(f"the keeper answered with {type(answer).__name__}")
                for item in capture(
                    self._namespace,
                    environment=self._environment,
                    internals=self._internals,
                    known=answer.known,
                    around=around,
                ):
                    dialogue.say(as_message(item))

    def _has_rest(self) -> bool:
        """Wait; return whether the worker has rested long enough, and has not begun another capture."""
        if not self._proof_idle_s:
            return False
        ready, _, _ = select.select([self._result], [], [], self._proof_idle_s)
        return not ready

    def _prove_or_say(self, checkpoint: int) -> None:
        """Prove the checkpoint, or have the log say why not: nobody waits for the proof."""
        try:
            self._prove(checkpoint)
        except BaseException as exc:  # noqa: BLE001 - as in `run`
            with contextlib.suppress(OSError, StateError), Dialogue(self._connect(), patience_s=_BRIEF_S) as dialogue:
                dialogue.say(Unproven(checkpoint=checkpoint, reason=reason_of(exc)))

    def _prove(self, checkpoint: int) -> None:
        """Have a fresh process load the checkpoint, and the keeper told what is proven.

        Raises:
            Exception: it cannot be proven.
        """
        number = str(checkpoint)
        again = self._loaded_elsewhere(number)
        with Dialogue(self._connect(), patience_s=CAPTURE_DEADLINE_S) as dialogue:
            dialogue.say(Find(session=self._request.session, wanted=number))
            found = dialogue.hear_answer()
            if not isinstance(found, Found):
                raise StoreUnavailable("of this kernel", f"its keeper answered with {type(found).__name__}")
            engine = self._environment.engine
            proven = verdicts(found.manifest.captured, again, RemoteSource(dialogue), self._namespace, engine)
        with Dialogue(self._connect(), patience_s=CAPTURE_DEADLINE_S) as dialogue:
            dialogue.say(Proven(checkpoint=checkpoint, captured=proven))
            dialogue.hear_answer()

    def _loaded_elsewhere(self, number: str) -> Again:
        """Return what a fresh process made of the checkpoint.

        Raises:
            ChildProcessError: it made nothing of it.
        """
        source = self._connect()
        with source:
            os.set_inheritable(source.fileno(), True)
            labels = ",".join(self._environment.engine)
            run = subprocess.run(
                [sys.executable, "-P", "-m", "capsule_kernel.state.prove", str(source.fileno()), number, labels],
                pass_fds=[source.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=CAPTURE_DEADLINE_S,
            )
        if run.returncode or not run.stdout:
            raise ChildProcessError(f"the process that loads it ended with status {run.returncode}")
        again: Again = msgspec.msgpack.decode(run.stdout, type=Again)
        return again


def _leave_the_worker(links: tuple[socket.socket, ...], prctl: Callable[..., int]) -> None:
    """Be a process on its own, that nothing of the worker's world can disturb, or be disturbed by."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, CAPTURE_DEADLINE_S)
    os.setpgid(0, 0)
    for link in links:
        link.close()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    os.nice(_NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        # Of what the user has, this can be spared most.
        file.write("1000")
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _outside(namespace: dict[Any, Any]) -> list[str]:
    """Return what a restore leaves as it is, in words: child processes, files open for writing, databases in files."""
    found = []
    for name, value in list(namespace.items()):
        if not isinstance(name, str) or name.startswith("_"):
            continue
        # A file may be detached, an object may raise whatever it likes: then nothing is known of it.
        with contextlib.suppress(BaseException):
            if isinstance(value, subprocess.Popen):
                found.append(f"{name}: child process {value.pid}")
            elif isinstance(value, io.IOBase) and not value.closed and value.writable() and hasattr(value, "name"):
                found.append(f"{name}: what was written to {value.name}")
        with contextlib.suppress(BaseException):
            if type(value).__module__ == "sqlite3" and type(value).__name__ == "Connection":
                path = value.execute("PRAGMA database_list").fetchone()[2]
                if path:
                    found.append(f"{name}: rows in {path}")
    return found
