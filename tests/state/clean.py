"""A process that never runs user code and forks others that do: one to take a checkpoint, one to restore it.

Reads one JSON job a line and answers with one JSON line. The process that restores is forked from this one, not from
the one that took the checkpoint: nothing that the code made, imported or changed is there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import types
from pathlib import Path
from typing import Any

import msgspec

from capsule_kernel.state import ambient
from capsule_kernel.state.capture import capture
from capsule_kernel.state.manifest import About, Entry
from capsule_kernel.state.pickler import Environment
from capsule_kernel.state.restore import restore
from capsule_kernel.state.store import Store
from capsule_kernel.state.verify import Again, recapture, verdicts
from capsule_kernel.state.writer import CheckpointWriter

INTERNALS = frozenset({"__name__", "__builtins__", "__doc__", "__loader__", "__spec__", "__package__", "internal"})
SESSION = "session"
_JOB_SECONDS_MAX = 50


def main() -> None:
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(_JOB_SECONDS_MAX)
            os.close(reading)
            answer = _answer(json.loads(line))
            with os.fdopen(writing, "w") as pipe:
                pipe.write(json.dumps(answer))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            answer_text = pipe.read()
        _, status = os.waitpid(child, 0)
        print(answer_text or json.dumps({"error": f"the process ended with status {status}"}), flush=True)


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    os.dup2(2, 1)
    namespace = _new_namespace()
    try:
        os.chdir(job["folder"])
        return take(namespace, job) if job["do"] == "take" else bring_back(namespace, job)
    except BaseException:  # noqa: BLE001 - the test shows it
        return {"error": traceback.format_exc()}


def _new_namespace() -> dict[str, Any]:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    return vars(module)


def take(namespace: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Run the code, fork, and store what there is then; cells that follow are checkpoints of their own."""
    environ_at_start = dict(os.environ)
    answer: dict[str, Any] = {}
    for cell in job["cells"]:
        exec(compile(cell, "<cell>", "exec", dont_inherit=True), namespace)
        before_fork = ambient.read_before_fork()
        alive = frozenset(map(id, threading.enumerate()))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                answer = _store(namespace, job, before_fork, environ_at_start, alive)
            except BaseException:  # noqa: BLE001 - the test shows it
                answer = {"error": traceback.format_exc()}
            with os.fdopen(writing, "w") as pipe:
                pipe.write(json.dumps(answer))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        answer = json.loads(text) if text else {"error": f"the capture ended with status {status}"}
        if "error" in answer:
            break
    return answer


def _store(
    namespace: dict[str, Any],
    job: dict[str, Any],
    before_fork: dict[str, Any],
    environ_at_start: dict[str, str],
    alive: frozenset[int],
) -> dict[str, Any]:
    environment = Environment(
        engine={"namespace": namespace, "stdout": sys.stdout, "stderr": sys.stderr},
        secret_hashes=frozenset(hash(text) for text in namespace.get("internal", ())),
        alive_threads=alive,
        has_foreign_threads=bool(job.get("has_foreign_threads")),
    )
    with Store(Path(job["store"])) as store:
        known = store.known(SESSION)
        writer = CheckpointWriter(store, SESSION, known)
        for item in capture(
            namespace,
            environment=environment,
            internals=INTERNALS,
            known=known,
            around={**ambient.read(before_fork, environ_at_start), **eval(job.get("extras", "{}"), namespace)},
        ):
            writer.add(item)
        number = writer.commit(About(session=SESSION, created_ms=0, after_cell=1))
        manifest = store.manifest(number)
        if job.get("verify"):
            again = msgspec.msgpack.decode(_in_a_clean_process(job["store"], number), type=Again)
            captured = verdicts(manifest.captured, again, store, namespace, environment.engine)
            manifest = msgspec.structs.replace(manifest, captured=captured)
    return {
        "id": number,
        "names": _plain(manifest.captured.names),
        "extras": _plain(manifest.captured.extras),
        "changes": manifest.changes,
        "added_bytes": manifest.added_bytes,
    }


def _in_a_clean_process(store: str, number: int) -> bytes:
    program = str(Path(__file__).resolve())
    return subprocess.run([sys.executable, program, store, str(number)], stdout=subprocess.PIPE, check=True).stdout


def recapture_here(folder: str, number: int) -> None:
    """Restore a checkpoint, and print what taking it apart again gives."""
    namespace = _new_namespace()
    with Store(Path(folder), is_writable=False) as store:
        engine = {"namespace": namespace, "stdout": sys.stdout, "stderr": sys.stderr}
        again = recapture(store.manifest(number).captured, store, namespace, engine)
    sys.stdout.buffer.write(msgspec.msgpack.encode(again))


def bring_back(namespace: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Restore into a namespace where `job["before"]` ran, and run the code that looks at it."""
    exec(compile(job.get("before", ""), "<before>", "exec", dont_inherit=True), namespace)
    with Store(Path(job["store"])) as store:
        listed = store.checkpoints(SESSION)
        captured = store.manifest(job.get("id") or listed[-1].id).captured
        result = restore(
            captured,
            store,
            namespace,
            engine={"namespace": namespace, "stdout": sys.stdout, "stderr": sys.stderr},
            internals=INTERNALS,
            mode=job.get("mode", "exact"),
        )
    answer: dict[str, Any] = {
        "names": _plain(result.names),
        "around": _plain(result.around),
        "removed": result.removed,
        "warnings": result.warnings,
    }
    namespace["extras"] = result.extras
    try:
        exec(compile(job["check"], "<check>", "exec", dont_inherit=True), namespace)
    except BaseException as exc:
        for name, entry in {**result.names, **result.around}.items():
            if entry.status == "lost":
                exc.add_note(f"{name} is lost: {entry.reason}")
        raise
    return answer


def _plain(entries: dict[str, Entry]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "status": entry.status,
            "reason": entry.reason,
            "note": entry.note,
            "doubt": entry.doubt,
            "size_bytes": entry.size_bytes,
        }
        for name, entry in entries.items()
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        recapture_here(sys.argv[1], int(sys.argv[2]))
    else:
        main()
