"""Magics that a kernel has and IPython in a terminal has not, or has differently."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from IPython.core import page
from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.core.magics.code import CodeMagics, MacroToEdit

if TYPE_CHECKING:
    from capsule_kernel.worker.shell import ZMQInteractiveShell


@magics_class
class KernelMagics(Magics):
    """`%clear`, `%less`, `%man`, `%edit`, `%connect_info`, `%qtconsole`, `%autosave`, `%reset`, and `%%threaded`."""

    shell: ZMQInteractiveShell

    @line_magic
    def edit(self, parameter_s: str = "", last_call: list[Any] | None = None) -> None:
        """Have the front end open an editor on code; options and arguments are those of IPython's %edit."""
        last_call = last_call or ["", ""]
        options, args = self.parse_options(parameter_s, "prn:")
        try:
            filename, lineno, _ = CodeMagics._find_edit_target(self.shell, args, options, last_call)  # noqa: SLF001 - IPython has no public way
        except MacroToEdit as exc:
            raise UsageError("macros cannot be edited in a front end") from exc
        if filename is None:
            # IPython has said why.
            return
        payload = {"source": "edit_magic", "filename": os.path.abspath(filename), "line_number": lineno}
        self.shell.payload_manager.write_payload(payload)

    @line_magic
    def clear(self, line: str) -> None:
        """Clear the terminal of a console; does nothing in a notebook."""
        self.shell.system("clear")

    @line_magic
    def subshell(self, line: str) -> None:
        """Show which shell runs this cell, and where."""
        name = self.shell.get_parent().get("header", {}).get("subshell_id")
        print(f"subshell id: {name}")  # noqa: T201 - a magic prints
        print(f"thread id: {threading.get_ident()}")  # noqa: T201 - as above
        print(f"main thread id: {threading.main_thread().ident}")  # noqa: T201 - as above
        print(f"pid: {os.getpid()}")  # noqa: T201 - as above
        print(f"thread count: {threading.active_count()}")  # noqa: T201 - as above

    @line_magic
    def less(self, arg_s: str) -> None:
        """Show a file in the front end's pager; Python files with syntax highlighting."""
        if not arg_s:
            raise UsageError("Missing filename.")
        path = os.path.expanduser(arg_s.strip())
        try:
            text: str | None = self._read(path)
        except OSError as exc:
            raise UsageError(str(exc)) from exc
        if path.endswith(".py"):
            text = self.shell.pycolorize(text)
        page.page(text)

    @line_magic
    def man(self, line: str) -> None:
        """Show a manual page in the front end's pager."""
        run = subprocess.run(["man", *shlex.split(line)], capture_output=True, text=True, check=False)  # noqa: S607 - man is found as the user's shell finds it
        page.page(run.stdout or run.stderr)

    @line_magic
    def connect_info(self, arg_s: str) -> None:
        """Print what other clients need to connect to this kernel."""
        path = self.shell.kernel.connection_file
        try:
            info = json.loads(self._read(path))
        except (OSError, ValueError) as exc:
            raise UsageError(f"cannot read the connection file {path}: {exc}") from exc
        name = os.path.basename(path)
        sys.stdout.write(json.dumps(info, indent=2) + "\n\n")
        sys.stdout.write(
            "Paste the above JSON into a file, and connect with:\n"
            "    $> jupyter <app> --existing <file>\n"
            "or, if you are local, you can connect with just:\n"
            f"    $> jupyter <app> --existing {name}\n"
            "or even just:\n"
            "    $> jupyter <app> --existing\n"
            "if this is the most recent Jupyter kernel you have started.\n"
        )

    @line_magic
    def qtconsole(self, arg_s: str) -> None:
        """Open a qtconsole on this kernel."""
        arguments = [sys.executable, "-m", "qtconsole", "--existing", self.shell.kernel.connection_file]
        subprocess.Popen([*arguments, *shlex.split(arg_s)], start_new_session=True)

    @line_magic
    def autosave(self, arg_s: str) -> None:
        """Set the notebook's autosave interval in seconds, in front ends that run JavaScript of outputs."""
        try:
            seconds = int(arg_s)
        except ValueError as exc:
            raise UsageError(f"%autosave requires an integer, got {arg_s!r}") from exc
        from IPython.display import Javascript, display

        display(Javascript(f"IPython.notebook.set_autosave_interval({seconds * 1000})"))
        sys.stdout.write(f"Autosaving every {seconds} seconds\n" if seconds else "Autosave disabled\n")

    @line_magic
    def reset(self, parameter_s: str = "") -> None:
        """Reset the namespace as IPython's %reset does; `%reset --worker` replaces the process with a fresh one.

        A fresh worker has no variables, no imports, no threads: a restart in which the kernel itself stays.
        """
        words = parameter_s.split()
        if "--worker" not in words:
            self.shell.magics_manager.registry["NamespaceMagics"].reset(parameter_s)
            return
        rest = [word for word in words if word != "--worker"]
        if rest and rest != ["-f"]:
            raise UsageError(f"%reset --worker takes no other arguments, got {' '.join(rest)!r}")
        self.shell.kernel.replace_worker = True

    @line_magic
    def undo(self, line: str) -> None:
        """Go back to the state before the last cell, or before the last n cells: `%undo`, `%undo 3`.

        The worker gives way to a sleeping snapshot of that moment. Nothing is executed again; what cells did outside of
        the process (files, children) stays done.
        """
        try:
            count = int(line) if line.strip() else 1
        except ValueError as exc:
            raise UsageError(f"%undo takes a number of cells, got {line!r}") from exc
        if count < 1:
            raise UsageError(f"%undo takes a number of cells from 1 on, got {count}")
        self.shell.kernel.undo = count

    @cell_magic
    def threaded(self, line: str, cell: str) -> None:
        """Run the cell in a thread, so that the event loop and its tasks go on while it blocks."""
        shell = self.shell
        code = compile(shell.transform_cell(cell), "<threaded cell>", "exec")
        shell.kernel.executor.threads.run(lambda: exec(code, shell.user_ns))  # noqa: S102 - running the user's cell

    def _read(self, path: str) -> str:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
