"""`python -m tests.batch.kills --count 200`: kills at random moments over durable runs, and what must hold.

Every run ends with the outputs of an uninterrupted one; no finished cell runs twice; nothing that was acknowledged is
lost. Half of the runs have cells tagged `rerun:safe`, in the other half somebody answers the questions.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_notebook

if TYPE_CHECKING:
    from collections.abc import Callable

MAIN = [sys.executable, "-c", "import sys; from capsule_kernel.cli import main; sys.exit(main())"]
VICTIMS = ("all", "runner", "kernel", "worker")
CELLS = 6
RUN_DEADLINE_S = 120.0
KILL_WITHIN_S = 4.0
CELL_S = 0.3


class KillError(AssertionError):
    """What must hold did not."""


class Series:
    """Runs in one folder, each killed until it is finished."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.kills = 0
        self.runs = 0
        self.again = 0
        self.environment = os.environ | {
            "HOME": str(folder),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "CAPSULE_PROMISES_FILE": str(folder / "promises.sqlite3"),
            "CAPSULE_CHECKPOINTS": str(folder / "checkpoints"),
        }

    def run_one(self, kills_left: int) -> None:
        """One run, with up to `kills_left` kills."""
        self.runs += 1
        name = f"run{self.runs}"
        is_safe = self.runs % 2 == 0
        path = self.folder / f"{name}.ipynb"
        log = self.folder / f"{name}.log"
        nbformat.write(new_notebook(cells=_cells(log, is_safe=is_safe)), path)
        finished: dict[int, int] = {}
        for _ in range(40):
            process = self._start("run", path.name, "--id", name)
            victim = self.random.choice(VICTIMS) if kills_left > 0 else ""
            ended = self._wait(process, self._moment(log) if victim else None, is_safe=is_safe)
            if not ended:
                self._kill(process, victim)
                self.kills += 1
                kills_left -= 1
                if victim in {"kernel", "worker"}:
                    ended = self._wait(process, None, is_safe=is_safe)
            if ended and process.returncode == 0:
                break
            self._check_log(log, finished)
            finished = self._finished(name, log)
        else:
            raise KillError(f"{name} did not come to its end")
        self.again += self._check_log(log, finished)
        self._check_outputs(path)

    def _moment(self, log: Path) -> Callable[[], bool]:
        """Return what says when to kill: some time after the start, or while or after one of the next cells."""
        if self.random.random() < 1 / 4:
            at = time.monotonic() + self.random.uniform(0.1, KILL_WITHIN_S)
            return lambda: time.monotonic() >= at
        cells = sum(_ran(log).values()) + self.random.randint(1, 3)
        delay_s, begun_at = self.random.uniform(0, CELL_S * 2), 0.0

        def is_now() -> bool:
            nonlocal begun_at
            if not begun_at and sum(_ran(log).values()) >= cells:
                begun_at = time.monotonic()
            return bool(begun_at) and time.monotonic() >= begun_at + delay_s

        return is_now

    def _check_outputs(self, path: Path) -> None:
        executed = nbformat.read(path.with_name(f"{path.stem}.executed.ipynb"), as_version=4)
        found = [["".join(output.get("text", "")) for output in cell.outputs] for cell in executed.cells]
        expected = [[f"cell {index}: {sum(range(index + 1))}\n"] for index in range(CELLS)]
        counts = [cell.execution_count for cell in executed.cells]
        if found != expected or counts != list(range(1, CELLS + 1)):
            raise KillError(f"{path.name}: outputs {found}, counts {counts}; expected {expected}")

    def _check_log(self, log: Path, finished: dict[int, int]) -> int:
        """Check that no cell ran again that was finished before; return how many cells ran more than once."""
        ran = _ran(log)
        for cell, times in finished.items():
            if ran.get(cell, 0) != times:
                raise KillError(f"{log.name}: cell {cell} was finished after {times} runs and ran again: {ran}")
        return sum(times > 1 for times in ran.values())

    def _finished(self, name: str, log: Path) -> dict[int, int]:
        """Return which cells are recorded as finished, and how often each has run by now."""
        shown = self._command("runs", "show", name, "--json")
        if shown.returncode:
            return {}
        cells = json.loads(shown.stdout)["cells"]
        ran = _ran(log)
        return {index: ran.get(index, 0) for index, cell in enumerate(cells) if cell["status"] == "ok"}

    def _wait(self, process: subprocess.Popen[str], is_now: Callable[[], bool] | None, *, is_safe: bool) -> bool:
        """Wait for the end, or for the moment of the kill, answering questions; return whether it has ended."""
        deadline = time.monotonic() + RUN_DEADLINE_S
        asked_at = time.monotonic()
        while process.poll() is None:
            now = time.monotonic()
            if is_now is not None and is_now():
                return False
            if now > deadline:
                raise KillError(f"a run did not end within {RUN_DEADLINE_S:g} s")
            if not is_safe and now - asked_at > 1.0:
                self._answer()
                asked_at = time.monotonic()
            time.sleep(0.02)
        return True

    def _answer(self) -> None:
        listed = self._command("inputs", "--json")
        for question in json.loads(listed.stdout) if listed.returncode == 0 else []:
            self._command("answer", question["id"], "yes")

    def _kill(self, process: subprocess.Popen[str], victim: str) -> None:
        try:
            runner = psutil.Process(process.pid)
            family = [runner, *runner.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        if victim == "runner":
            family = family[:1]
        elif victim == "kernel":
            family = family[1:2]
        elif victim == "worker":
            # The youngest: the worker, one of its forks, or the zygote.
            family = family[2:][-1:]
        for each in family:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        if victim in {"all", "runner"}:
            process.wait(30)

    def _start(self, *args: str) -> subprocess.Popen[str]:
        with (self.folder / "stderr.txt").open("a") as err:
            return subprocess.Popen(
                [*MAIN, *args],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                text=True,
                start_new_session=True,
            )

    def _command(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MAIN, *args],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def _cells(log: Path, *, is_safe: bool) -> list[Any]:
    note = f"with open({str(log)!r}, 'a') as file: _ = file.write('{{}}\\n')\n"
    first = "import numpy as np, time\ntotals = np.zeros(100, dtype=int); seen = totals[:10]\n"
    cells = []
    for index in range(CELLS):
        before = first if index == 0 else f"assert seen[{index - 1}] == {index - 1}\n"
        work = f"time.sleep({CELL_S}); totals[{index}] = {index}\nprint('cell {index}:', int(seen.sum()))"
        metadata = {"tags": ["rerun:safe"]} if is_safe else {}
        cells.append(new_code_cell(note.format(index) + before + work, metadata=metadata))
    return cells


def _ran(log: Path) -> dict[int, int]:
    found: dict[int, int] = {}
    for word in log.read_text().split() if log.exists() else []:
        found[int(word)] = found.get(int(word), 0) + 1
    return found


def series(folder: Path, count: int, seed: int, *, tell: Callable[[str], None] = str) -> Series:
    """Kill `count` times, telling how far it is; return what was done.

    Raises:
        KillError: something that must hold did not.
    """
    done = Series(folder, seed)
    while done.kills < count:
        done.run_one(min(count - done.kills, 4))
        tell(f"{done.kills} kills, {done.runs} runs, {done.again} cells run again")
    return done


def main() -> int:
    """Run the series, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.batch.kills", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="capsule-kills-") as folder:
        done = series(Path(folder), options.count, options.seed, tell=lambda text: print(text, file=sys.stderr))
    print(
        f"{done.kills} kills over {done.runs} runs of {CELLS} cells, {done.again} interrupted cells run again, "
        f"{time.monotonic() - began:.0f} s: all ended as if nothing had happened"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
