"""The command as a process with a home of its own, and what it finds there."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from capsule_kernel.promises import names
from capsule_kernel.promises.opening import open_promises
from capsule_kernel.settings import load_launch

# As the installed script: the current folder is not where modules are looked for.
MAIN = [sys.executable, "-P", "-c", "import sys; from capsule_kernel.cli import main; sys.exit(main())"]
DEADLINE_S = 50.0
_STREAMS = {"PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONUTF8"}


class Home:
    """A home of its own, and the commands that are run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = str(folder / "promises.sqlite3")
        self.environment = {key: value for key, value in os.environ.items() if key not in _STREAMS} | {
            "HOME": str(folder),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "CAPSULE_PROMISES_FILE": self.file,
            "CAPSULE_CHECKPOINTS": str(folder / "checkpoints"),
        }

    def command(self, *args: str | Path, text: str | bytes = b"", **env: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end; `text` is its standard input."""
        done = subprocess.run(
            [*MAIN, *map(str, args)],
            env=self.environment | env,
            cwd=self.folder,
            input=text.encode() if isinstance(text, str) else text,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def shell(self, line: str, *args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a line of bash, in which `capsule` is the command and `$1` the first argument."""
        define = f'capsule() {{ "{sys.executable}" -P -c "{MAIN[3]}" "$@"; }}; '
        return subprocess.run(
            ["bash", "-c", define + line, "bash", *map(str, args)],
            env=self.environment | env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def terminal(self, *args: str | Path, typed: bytes, after: bytes) -> tuple[int, bytes]:
        """Run the command on a terminal, type something once `after` is to be read; return status and what it showed.

        Standard input is the terminal's, so that ^C and ^D are what they are for a person.
        """
        pid, ours = pty.fork()
        if pid == 0:
            os.chdir(self.folder)
            # Where the tests run in the background of a script, its shell has them ignore ^C, and all that they start.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execve(MAIN[0], [*MAIN, *map(str, args)], self.environment)
        seen = b""
        deadline = time.monotonic() + DEADLINE_S
        try:
            while time.monotonic() < deadline:
                seen += os.read(ours, 65536)
                if typed and after in seen:
                    # A ^C between the prompt and the call of `read` would be noticed by Python after that only.
                    while psutil.Process(pid).status() != psutil.STATUS_SLEEPING:
                        time.sleep(0.01)
                    os.write(ours, typed)
                    typed = b""
        except OSError:
            pass  # Linux reports the end of a terminal as EIO
        os.close(ours)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen

    def ask(self, prompt: str, *, promise_id: str = "k-1:input:1", session: str = "a.ipynb") -> str:
        """Leave a question behind, as a kernel does; return its id."""

        async def work(promises: Any) -> None:
            await promises.start()
            param = {"v": 1, "prompt": prompt, "password": False}
            tags = {"capsule:session": session}
            await promises.create(promise_id, param, kind=names.INPUT, tags=tags, is_durable=True)
            await promises.stop()

        settings = msgspec.structs.replace(load_launch([], {}).settings, promises_file=self.file)
        asyncio.run(work(open_promises(settings, {})))
        return promise_id
