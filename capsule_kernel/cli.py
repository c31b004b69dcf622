"""The command `capsule`: installs and removes kernelspecs, runs notebooks.

Exit status 2 means that it was used wrongly; the text says how.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capsule_kernel import __version__, terminal
from capsule_kernel.clock import Clock
from capsule_kernel.errors import (
    CapsuleError,
    ConfigurationError,
    KernelSpecError,
    NotebookError,
    NotebookRunError,
    OutputUnavailable,
    PromisesUnavailable,
    ReaderGone,
)
from capsule_kernel.terminal import all_printable, emit, emit_json, say, warn

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from capsule_kernel import kernelspec
    from capsule_kernel.batch.durable import DurableRun
    from capsule_kernel.batch.events import Observer

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

# Numbers of checkpoints, and moments in milliseconds, are 64 bits wide where they are stored.
_DIGITS_MAX = 18
_DAYS_MAX = 1_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; the process's own when None.

    Returns:
        The exit status: 0, 1 when a cell failed or something could not be done, 2 for a wrong use, 128 + n after
        signal n.
    """
    try:
        terminal.open_streams()
        try:
            return _ended(_status_of(argv))
        except SystemExit as exc:
            # argparse has shown help, or said what was wrong.
            sys.exit(_ended(MISUSED if exc.code else OK))
    except KeyboardInterrupt:
        warn("capsule: interrupted")
        return INTERRUPTED


def _ended(status: int) -> int:
    """Return the status of a command that is done, when what it printed is written."""
    try:
        terminal.flush()
    except ReaderGone:
        pass
    except OutputUnavailable as exc:
        warn(f"capsule: {exc}")
        return status or FAILED
    return status


def _status_of(argv: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(argv)
        status: int = options.function(options)
    except ReaderGone:
        # What was asked for is done, and nobody wants to read more of it (`capsule promises list | head`).
        return OK
    except CapsuleError as exc:
        warn(f"capsule: {exc}")
        misused = isinstance(exc, NotebookError) and not isinstance(exc, NotebookRunError)
        return MISUSED if misused else FAILED
    except OSError as exc:
        reason = _system_reason(exc)
        if not reason:
            raise
        warn(f"capsule: {reason}")
        return FAILED
    return status


def _system_reason(exc: OSError) -> str:
    """Return what the system refused, as a sentence; empty where that says nothing to a person: it is a bug then."""
    if exc.filename is not None and not isinstance(exc.filename, int) and exc.strerror:
        return f"{os.fsdecode(exc.filename)}: {exc.strerror}"
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the current folder does not exist any more: change to one that does"
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="capsule", description="Capsule, a Jupyter kernel for Python.")
    parser.add_argument("--version", action="version", version=f"capsule {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_install(commands)
    _add_uninstall(commands)
    _add_runs(commands)
    _add_promises(commands)
    _add_questions(commands)
    _add_checkpoints(commands)
    _add_replay(commands)
    return parser


type _Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse names no public type


def _add_run(commands: _Commands) -> None:
    command = commands.add_parser(
        "run",
        help="execute a notebook",
        description="Execute a notebook on the Capsule kernel of this environment, show what its cells write, and "
        "write the executed notebook to a file of its own; the notebook itself stays as it is. Outputs go to standard "
        "output, progress to standard error.",
        epilog="Exit status: 0 when all cells ended well (an error in a cell with the tag 'raises-exception' is "
        "expected), 1 when a cell failed, 2 when the notebook or an argument cannot be used, 130 after Ctrl-C. "
        "Once a cell has run, the executed notebook is written, however the run ends.",
    )
    command.add_argument("notebook", type=_path, metavar="NOTEBOOK", help="the notebook (.ipynb)")
    command.add_argument(
        "-o",
        "--output",
        type=_path,
        metavar="FILE",
        help="where the executed notebook goes (default: NAME.executed.ipynb beside the notebook)",
    )
    command.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="how long one cell may take (default: any)"
    )
    command.add_argument("--allow-errors", action="store_true", help="go on after a failed cell; the status is still 1")
    command.add_argument(
        "--cwd", type=_path, metavar="DIR", help="where the code runs (default: the notebook's folder)"
    )
    command.add_argument("--kernel", metavar="NAME", help="an installed kernelspec to use instead of this Capsule")
    command.add_argument(
        "-p",
        "--parameter",
        dest="parameters",
        type=_parameter,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="assign a Python literal, or else the text, after the cell with the tag 'parameters'; may be repeated",
    )
    command.add_argument(
        "--kernel-config",
        action="append",
        default=[],
        metavar="FILE|NAME=VALUE",
        help="a configuration file for the kernel, or one of its settings (README, Settings); may be repeated",
    )
    command.add_argument(
        "--json", action="store_true", help="write events to standard output, one JSON object a line, and nothing else"
    )
    command.add_argument(
        "--id",
        metavar="ID",
        help="make the run durable: after a crash the same command goes on after the last finished cell",
    )
    command.add_argument(
        "--rerun",
        choices=("ask", "safe", "never"),
        default="ask",
        help="with --id: what to do with a cell whose end nobody saw (default: %(default)s); a cell's tag rerun:safe, "
        "rerun:ask or rerun:never goes before",
    )
    command.add_argument("--from-start", action="store_true", help="with --id: run all cells, whatever has finished")
    command.set_defaults(function=_run)


def _add_install(commands: _Commands) -> None:
    from capsule_kernel import kernelspec

    command = commands.add_parser(
        "install",
        help="install a kernelspec",
        description="Make this interpreter's Capsule known to Jupyter. The package already did so for its own "
        "environment; this is for a Jupyter elsewhere, another name, or variables. Without a place it installs for "
        "all users of the system.",
    )
    _add_place(command)
    command.add_argument("--name", default=kernelspec.DEFAULT_NAME, help="the kernelspec's name (default: %(default)s)")
    command.add_argument(
        "--display-name",
        action=_Given,
        default=kernelspec.DEFAULT_DISPLAY_NAME,
        metavar="TEXT",
        help="what Jupyter shows (default: %(default)s)",
    )
    command.add_argument(
        "--env",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="an environment variable for the kernel; may be repeated",
    )
    command.set_defaults(function=_install)


def _add_uninstall(commands: _Commands) -> None:
    from capsule_kernel import kernelspec

    command = commands.add_parser(
        "uninstall",
        help="remove a kernelspec that `capsule install` made",
        description="Remove a kernelspec that `capsule install` made. Without a place it is looked for wherever "
        "Jupyter looks.",
    )
    _add_place(command)
    command.add_argument("--name", default=kernelspec.DEFAULT_NAME, help="the kernelspec's name (default: %(default)s)")
    command.set_defaults(function=_uninstall)


def _add_promises(commands: _Commands) -> None:
    command = commands.add_parser(
        "promises",
        help="look at the recorded promises, let go of old ones",
        description="Executions and questions are recorded as promises in a file of yours. List them, or let go of "
        "those that were settled long ago; pending ones stay.",
    )
    actions = command.add_subparsers(title="actions", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list promises, one a line: state, kind, id")
    listing.add_argument("prefix", type=_text, nargs="?", default="", metavar="PREFIX", help="how their ids begin")
    listing.add_argument("--all", action="store_true", help="settled ones too")
    listing.set_defaults(function=_list_promises)
    collection = actions.add_parser("gc", help="let go of promises that were settled long ago")
    collection.add_argument(
        "--days", type=_days, default=30, metavar="DAYS", help="how long they are kept (default: %(default)s)"
    )
    collection.set_defaults(function=_collect_promises)
    for action in (listing, collection):
        action.add_argument(
            "--file", default="", action=_Given, metavar="FILE", help="the promises' file (default: your own)"
        )


def _add_runs(commands: _Commands) -> None:
    command = commands.add_parser(
        "runs",
        help="list durable runs, show one, cancel one",
        description="Runs that were begun with `capsule run --id`: where they stand, and what they wait for.",
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(function=_list_runs)
    actions = command.add_subparsers(title="actions", metavar="ACTION")
    listing = actions.add_parser("list", help="list runs: id, state, cells done, notebook; also without an action")
    listing.set_defaults(function=_list_runs)
    showing = actions.add_parser("show", help="show a run cell by cell")
    showing.set_defaults(function=_show_run)
    canceling = actions.add_parser("cancel", help="cancel a run: one that runs now stops")
    canceling.set_defaults(function=_cancel_run)
    for action in (listing, showing, canceling):
        # Not set where it is not given: it may stand before the action as well.
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="for programs")
    for action in (showing, canceling):
        action.add_argument("id", metavar="ID", help="the run's")


def _add_questions(commands: _Commands) -> None:
    listing = commands.add_parser(
        "inputs",
        help="list the questions that notebooks wait with",
        description="List the questions of `input()` that wait for an answer: id, age, notebook, prompt.",
    )
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(function=_list_questions)
    command = commands.add_parser(
        "answer",
        help="answer a question",
        description="Answer a question of `input()`. The first answer wins, whoever gives it. The answer to a password "
        "is asked for, never an argument, and goes to the kernel without being written anywhere.",
    )
    command.add_argument("id", type=_text, metavar="ID", help="the question's, as `capsule inputs` lists it")
    answer = command.add_mutually_exclusive_group()
    answer.add_argument(
        "text", type=_text, nargs="?", metavar="TEXT", help="the answer (default: a line of standard input)"
    )
    answer.add_argument("--refuse", action="store_true", help="no answer: `input()` raises EOFError")
    command.set_defaults(function=_answer_question)
    for each in (listing, command):
        each.add_argument(
            "--file", default="", action=_Given, metavar="FILE", help="the promises' file (default: as in the settings)"
        )


def _add_checkpoints(commands: _Commands) -> None:
    command = commands.add_parser(
        "checkpoints",
        help="look at saved state, delete it",
        description="The kernel saves the variables of notebooks to a private store of yours. In a notebook, %%restore "
        "brings them back; here you see what is there, and delete it.",
    )
    actions = command.add_subparsers(title="actions", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list checkpoints, by notebook")
    listing.add_argument(
        "session", type=_text, nargs="?", metavar="SESSION", help="the notebook's path, or as it was named"
    )
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(function=_list_checkpoints)
    showing = actions.add_parser("show", help="show what every variable of a checkpoint is")
    showing.add_argument("number", type=_number, metavar="NUMBER", help="which checkpoint")
    showing.add_argument("--json", action="store_true", help="for programs")
    showing.set_defaults(function=_show_checkpoint)
    deleting = actions.add_parser("delete", help="delete checkpoints")
    deleting.add_argument("numbers", type=_number, nargs="+", metavar="NUMBER", help="which checkpoints")
    deleting.set_defaults(function=_delete_checkpoints)
    collection = actions.add_parser("gc", help="let go of old checkpoints without a name, give back room")
    collection.set_defaults(function=_collect_checkpoints)
    for action in (listing, showing, deleting, collection):
        action.add_argument("--folder", default="", action=_Given, metavar="DIR", help="the store (default: your own)")


def _add_replay(commands: _Commands) -> None:
    command = commands.add_parser(
        "replay",
        help="show what the cells of a running kernel have put out",
        description="Show what the newest cells of a running kernel have put out, also the one that runs: for a page "
        "that was reloaded meanwhile.",
    )
    command.add_argument(
        "kernel",
        metavar="CONNECTION",
        help="the kernel's connection file, or a part of its name, such as the kernel's id",
    )
    command.add_argument(
        "--into", type=_path, metavar="NOTEBOOK", help="put the outputs into the cells of this notebook (JupyterLab's)"
    )
    command.set_defaults(function=_replay)


def _add_place(command: argparse.ArgumentParser) -> None:
    place = command.add_mutually_exclusive_group()
    place.add_argument("--user", action="store_true", help="in your own Jupyter folder")
    place.add_argument("--sys-prefix", action="store_true", help="in the environment of this interpreter")
    place.add_argument("--prefix", action=_Given, metavar="DIR", help="in DIR/share/jupyter/kernels")


class _Given(argparse.Action):
    """Takes a text that is not empty: what an unset variable of a shell leaves must not mean the default."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep the text."""
        del parser, option_string
        if not values:
            raise argparse.ArgumentError(self, "expected a text, got an empty one; leave the option out for none")
        setattr(namespace, self.dest, values)


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return Path(text)


def _text(text: str) -> str:
    if not terminal.is_text(text):
        raise argparse.ArgumentTypeError(f"{text!r}: no UTF-8 text")
    return text


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: expected the number of a checkpoint, as in the list")
    return int(text)


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of seconds, 1 or more")
    return int(text)


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX or int(text) > _DAYS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of days, 0 to {_DAYS_MAX}")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    import asyncio

    from capsule_kernel.batch import notebook as files
    from capsule_kernel.batch import parameters
    from capsule_kernel.batch.display import stderr_display
    from capsule_kernel.batch.progress import JSONProgress
    from capsule_kernel.batch.runner import NotebookRun

    path: Path = options.notebook
    cwd: Path = options.cwd or path.absolute().parent
    notebook = files.read(path)
    output: Path = options.output or path.with_name(f"{path.stem}.executed.ipynb")
    if not cwd.is_dir():
        raise NotebookError(str(path), f"the folder {cwd} (--cwd) does not exist")
    files.check_writable(output)
    if options.parameters:
        for unknown in parameters.inject(notebook, dict(options.parameters), name=path.name):
            warn(f"note: the cell with the tag 'parameters' does not assign {unknown}")
    arguments = _kernel_arguments(options)
    if options.id is None and (options.from_start or options.rerun != "ask"):
        raise NotebookError(str(path), "--rerun and --from-start are for durable runs: give the run an --id")
    display = JSONProgress(sys.stdout, Clock().iso_now) if options.json else stderr_display(os.environ)
    run: NotebookRun | DurableRun
    if options.id is not None:
        run = _durable_run(options, notebook, display, cwd, arguments)
    else:
        run = NotebookRun(
            notebook,
            display,
            name=path.name,
            kernel=options.kernel,
            cwd=str(cwd),
            timeout_s=options.timeout,
            allow_errors=options.allow_errors,
            kernel_arguments=arguments,
        )
    display.open()
    try:
        status = asyncio.run(run.run())
    finally:
        display.close()
        if run.has_begun:
            files.write(notebook, output)
            if not options.json:
                warn(f"written: {output}")
    if display.trouble:
        raise OutputUnavailable(display.trouble)
    return status


def _durable_run(
    options: argparse.Namespace, notebook: NotebookNode, display: Observer, cwd: Path, arguments: list[str]
) -> DurableRun:
    from capsule_kernel.batch.durable import DurableRun
    from capsule_kernel.batch.steps import RunOptions

    if options.kernel is not None:
        raise NotebookError(str(options.notebook), "a durable run (--id) needs the Capsule kernel: leave out --kernel")
    name = options.notebook.name
    how = RunOptions(
        # It is recorded, where only text is; other bytes in it stand escaped.
        name=name if terminal.is_text(name) else terminal.printable(name),
        cwd=str(cwd),
        run_id=options.id,
        policy=options.rerun,
        timeout_s=options.timeout,
        allow_errors=options.allow_errors,
        from_start=options.from_start,
        kernel_arguments=arguments,
    )
    return DurableRun(notebook, display, how)


def _list_runs(options: argparse.Namespace) -> int:
    import asyncio

    from capsule_kernel.batch import runs

    found = asyncio.run(runs.listing())
    if options.json:
        emit_json(found)
        return OK
    for run in found:
        waits = f"  waits for {run.question}" if run.question else ""
        say(f"{run.id}  {run.state}  {run.done} of {run.total} cells  {run.notebook}{waits}")
    return OK


def _show_run(options: argparse.Namespace) -> int:
    import asyncio

    from capsule_kernel.batch import runs

    run = asyncio.run(runs.detail(options.id))
    if options.json:
        emit_json(run)
        return OK
    say(f"{run.id}: {run.state}, {run.done} of {run.total} cells of {run.notebook}")
    for number, cell in enumerate(run.cells, 1):
        lost = f"; live only: {', '.join(cell.live_only)}" if cell.live_only else ""
        again = f", attempt {cell.attempt}" if cell.attempt > 1 else ""
        say(f"  cell {number}: {cell.status}{again}{lost}")
    if run.question:
        say(f"waits for an answer to {run.prompt!r}: capsule answer {run.question} TEXT")
    return OK


def _cancel_run(options: argparse.Namespace) -> int:
    import asyncio

    from capsule_kernel.batch import runs

    asyncio.run(runs.cancel(options.id))
    say(f'{{"canceled":"{options.id}"}}' if options.json else f"canceled {options.id}")
    return OK


def _parameter(text: str) -> tuple[str, object]:
    from capsule_kernel.batch.parameters import parse

    try:
        return parse(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _kernel_arguments(options: argparse.Namespace) -> list[str]:
    """Return the arguments that `--kernel-config` stands for, checked before a kernel is started with them."""
    from capsule_kernel.settings import load_launch

    arguments: list[str] = []
    for text in options.kernel_config:
        name, equals, value = text.partition("=")
        if not equals:
            arguments.append(f"--config={Path(text).absolute()}")
        else:
            arguments.append(f"--{name}={value}" if "." in name else f"--CapsuleKernel.{name}={value}")
    if arguments and options.kernel is None:
        try:
            load_launch(arguments, os.environ)
        except ConfigurationError as exc:
            raise NotebookError(str(options.notebook), f"--kernel-config: {exc}") from exc
    return arguments


def _install(options: argparse.Namespace) -> int:
    from capsule_kernel import kernelspec

    for name, _ in options.env:
        if not name or "=" in name:
            raise KernelSpecError(name=options.name, reason=f"--env {name}: not a name of an environment variable")
    place = _place(options) or kernelspec.Place(kind="system")
    folder = kernelspec.install(place, name=options.name, display_name=options.display_name, env=dict(options.env))
    say(f"installed the kernelspec {options.name} in {folder}")
    if not kernelspec.is_listed(folder):
        say(f"note: the Jupyter of this environment does not look there; set JUPYTER_PATH={folder.parent.parent}")
    return OK


def _uninstall(options: argparse.Namespace) -> int:
    from capsule_kernel import kernelspec

    folder = kernelspec.uninstall(_place(options), name=options.name)
    say(f"removed the kernelspec {options.name} from {folder}")
    return OK


def _list_promises(options: argparse.Namespace) -> int:
    from capsule_kernel.promises.store import Store

    after = ""
    with closing(Store(_existing_promises(options.file), Clock())) as store:
        store.tick()
        while page := store.search(prefix=options.prefix, state=None if options.all else "pending", after=after):
            for promise in page:
                say(f"{promise.state:<17} {promise.kind or '-':<8} {promise.id}")
            after = page[-1].id
    return OK


def _collect_promises(options: argparse.Namespace) -> int:
    from capsule_kernel.promises.store import Store

    with closing(Store(_existing_promises(options.file), Clock())) as store:
        collected = store.collect(options.days)
    assert collected is not None
    say(f"let go of {collected.promises} promises and {collected.entries} lines of the log")
    return OK


def _existing_promises(file: str) -> str:
    from capsule_kernel.promises.place import promises_file

    path = promises_file(os.environ, file)
    if not Path(path).exists():
        raise PromisesUnavailable(path, "there is no such file: nothing was recorded yet")
    return path


def _list_questions(options: argparse.Namespace) -> int:
    from capsule_kernel import questions

    found = questions.pending(file=options.file)
    if options.json:
        emit_json(found)
        return OK
    now_ms = Clock().unix_ms()
    for question in found:
        minutes = (now_ms - question.asked_at_ms) // 60_000
        secret = " (password)" if question.password else ""
        left = " (nobody waits: its process has ended)" if question.is_left else ""
        say(f"{question.id}  {minutes} min  {question.session}  {question.prompt!r}{secret}{left}")
    return OK


def _answer_question(options: argparse.Namespace) -> int:
    from capsule_kernel import questions

    if options.refuse:
        questions.refuse(options.id, file=options.file)
        return OK
    question = questions.find(options.id, file=options.file)
    text = options.text
    if question.password and text is not None:
        warn("capsule answer: a password is not given as an argument, where others see it: leave it out")
        return MISUSED
    if text is None:
        text = terminal.answer_to(question.id, question.prompt, is_secret=question.password)
    questions.answer(options.id, text, file=options.file)
    return OK


def _list_checkpoints(options: argparse.Namespace) -> int:
    from capsule_kernel import checkpoints
    from capsule_kernel.state.listing import as_text

    found = checkpoints.listing(options.session, folder=options.folder)
    if options.json:
        emit_json(found)
        return OK
    emit("\n\n".join(as_text(all_printable(each)) for each in found) or "no checkpoints")
    return OK


def _show_checkpoint(options: argparse.Namespace) -> int:
    from capsule_kernel import checkpoints
    from capsule_kernel.state.listing import as_detail

    with checkpoints.open_store(options.folder, is_writable=False) as store:
        manifest = store.manifest(options.number)
    if options.json:
        names = {
            name: {"status": entry.status, "reason": entry.reason, "kind": entry.kind, "shape": entry.shape}
            for name, entry in manifest.captured.names.items()
        }
        emit_json({"about": manifest.about, "changes": manifest.changes, "names": names})
        return OK
    emit(as_detail(options.number, all_printable(manifest)))
    return OK


def _delete_checkpoints(options: argparse.Namespace) -> int:
    from capsule_kernel import checkpoints

    checkpoints.delete(options.numbers, folder=options.folder)
    say(f"deleted {len(options.numbers)}; `capsule checkpoints gc` gives back their room")
    return OK


def _collect_checkpoints(options: argparse.Namespace) -> int:
    from capsule_kernel import checkpoints
    from capsule_kernel.state.listing import size

    swept = checkpoints.collect(folder=options.folder)
    for note in swept.notes:
        warn(note)
    say(f"let go of {swept.deleted_checkpoints} checkpoints, gave back {size(max(0, swept.freed_bytes))}")
    return OK


def _replay(options: argparse.Namespace) -> int:
    from capsule_kernel import replay

    with replay.connected(options.kernel) as client:
        cells = replay.replay(client)
    if options.into is not None:
        from capsule_kernel.batch import notebook

        content = notebook.read(options.into)
        count = replay.fill(content, cells)
        notebook.write(content, options.into)
        say(f"{count} cells of {options.into} have their outputs")
        return OK
    for cell in cells:
        number = "" if cell.execution_count is None else f"[{cell.execution_count}] "
        say(f"--- {number}{cell.state}: {cell.code.partition(chr(10))[0]}")
        if cell.dropped:
            say(f"({cell.dropped} earlier messages are no longer kept)")
        for output in cell.outputs():
            emit(_output_text(output).removesuffix("\n"))
    return OK


def _output_text(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return str(output["text"])
    if output["output_type"] == "error":
        return "\n".join(output["traceback"])
    return str(output["data"].get("text/plain", f"({', '.join(output['data'])})"))


def _place(options: argparse.Namespace) -> kernelspec.Place | None:
    from capsule_kernel import kernelspec

    if options.user:
        return kernelspec.Place(kind="user")
    if options.sys_prefix:
        return kernelspec.Place(kind="prefix", prefix=sys.prefix)
    return kernelspec.Place(kind="prefix", prefix=options.prefix) if options.prefix is not None else None
