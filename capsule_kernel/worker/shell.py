"""IPython's shell as the worker embeds it: displays, tracebacks, payloads, compiling, all of it published.

The class bears the name that libraries look for (`ZMQInteractiveShell`), and says to be ipykernel's where that is
loaded.
"""

from __future__ import annotations

import builtins
import os
import re
import sys
import time
from collections.abc import Callable
from subprocess import CalledProcessError
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any

from IPython.core import page
from IPython.core.autocall import IPyAutocall, ZMQExitAutocall
from IPython.core.formatters import DisplayFormatter
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell, InteractiveShellABC
from IPython.core.macro import Macro
from IPython.core.payload import PayloadManager
from IPython.core.prefilter import PrefilterManager
from IPython.core.prefilter import _default_checkers as default_checkers
from traitlets import Any as AnyTrait
from traitlets import CBool, Instance, Type, default
from traitlets.config import Configurable

from capsule_kernel.worker import parents
from capsule_kernel.worker.attempts import AttemptMagics
from capsule_kernel.worker.checkpoint_magics import CheckpointMagics
from capsule_kernel.worker.compiling import CellCompiler
from capsule_kernel.worker.display import Outlet, ZMQDisplayPublisher, ZMQShellDisplayHook
from capsule_kernel.worker.executor import InterruptibleAwait
from capsule_kernel.worker.history import WorkerHistory
from capsule_kernel.worker.magics import KernelMagics
from capsule_kernel.worker.namespace import internals_in, put_back
from capsule_kernel.worker.output import STDERR, settle
from capsule_kernel.worker.system import run_command

if TYPE_CHECKING:
    from capsule_kernel.worker.toolkits import Toolkits

_ENVIRONMENT = {
    # Colours in what runs in a cell, and no pagers: nobody could press a key.
    "TERM": "xterm-color",
    "CLICOLOR": "1",
    "FORCE_COLOR": "1",
    "CLICOLOR_FORCE": "1",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
}


class ZMQInteractiveShell(InteractiveShell):
    """The worker's shell."""

    # What `str(type(get_ipython()))` says: libraries look for it, and people print it.
    __module__ = "ipykernel.zmqshell"

    # What IPython's declarations leave open, as it is from the end of the constructor on.
    compile: CellCompiler
    display_formatter: DisplayFormatter
    display_pub: ZMQDisplayPublisher
    displayhook: ZMQShellDisplayHook
    history_manager: WorkerHistory
    payload_manager: PayloadManager
    prefilter_manager: PrefilterManager
    configurables: list[Configurable]  # type: ignore[assignment]  # IPython's begins with the shell, hence its type

    displayhook_class = Type(ZMQShellDisplayHook)
    display_pub_class = Type(ZMQDisplayPublisher)
    compiler_class = Type(CellCompiler)
    kernel = AnyTrait()
    exiter = Instance(ZMQExitAutocall)
    # A kernel has no terminal: these two have no meaning here.
    readline_use = CBool(False)
    autoindent = CBool(False)
    keepkernel_on_exit: bool | None = None
    own_modules: frozenset[str] = frozenset()
    """Names of the modules that the kernel itself has loaded: the debugger steps over their code."""

    def __init__(self, **kwargs: Any) -> None:
        self.outlet = Outlet()
        self.last_transformed = ""
        self.last_traceback: list[str] | None = None
        self.has_display_failed = False
        self.has_started = False
        # How long cells' code has run, in seconds; a cell within a cell counts twice.
        self.code_s = 0.0
        self._requests: dict[int, Callable[[], dict[str, Any]]] = {}
        self._toolkits: Toolkits | None = None
        super().__init__(**kwargs)

    @default("banner1")
    def _default_banner1(self) -> str:
        return ""

    @default("exiter")
    def _default_exiter(self) -> ZMQExitAutocall:
        return ZMQExitAutocall(self)

    @property  # type: ignore[misc]  # nobody sets it
    def __class__(self) -> type:
        """The class of ipykernel's shell where somebody has imported that, for libraries that ask `isinstance`."""
        # Looked up without loading what is pending (see `pending`).
        module = sys.modules.get("ipykernel.zmqshell")
        real = None if module is None else vars(module).get("ZMQInteractiveShell")
        return type(self) if real is None else real

    # --- what IPython's constructor calls ----------------------------------------------------------------------------

    def init_environment(self) -> None:
        """Set the variables that a kernel's children expect."""
        os.environ.update(_ENVIRONMENT)
        os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")

    def init_virtualenv(self) -> None:
        """Do nothing: the kernel runs in the environment that it was installed in."""

    def init_history(self) -> None:
        """Use the history that has no database."""
        self.history_manager = WorkerHistory(shell=self, parent=self)
        self.configurables.append(self.history_manager)

    def init_user_ns(self) -> None:
        """Fill the namespace, and remember what must stay in it."""
        super().init_user_ns()
        self.internals = internals_in(self.user_ns)

    def init_payload(self) -> None:
        """Make the payload manager."""
        self.payload_manager = PayloadManager(parent=self)
        self.configurables.append(self.payload_manager)

    def init_hooks(self) -> None:
        """Have the pager be the front end's."""
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(self.payloadpage_page), 99)

    def init_magics(self) -> None:
        """Add the kernel's magics."""
        super().init_magics()
        self.register_magics(KernelMagics, CheckpointMagics, AttemptMagics)
        self.magics_manager.register_alias("ed", "edit")
        self.magics_manager.register_alias("more", "less")

    def hide_what_is_there(self) -> None:
        """Count the names and modules of now as the kernel's own: `%who` and `%reset --aggressive` leave them out."""
        self.user_ns_hidden.update(self.user_ns)
        self._sys_modules_keys = set(sys.modules)

    # --- payloads ----------------------------------------------------------------------------------------------------

    def payloadpage_page(self, strg: Any, start: int = 0, screen_lines: int = 0, pager_cmd: str | None = None) -> None:
        """Show text, or a MIME bundle, in the front end's pager."""
        data = strg if isinstance(strg, dict) else {"text/plain": strg}
        self.payload_manager.write_payload({"source": "page", "data": data, "start": max(0, start)})

    def set_next_input(self, text: str, replace: bool = False) -> None:
        """Put `text` into the next cell."""
        self.payload_manager.write_payload({"source": "set_next_input", "text": text, "replace": replace})

    def ask_exit(self) -> None:
        """End the kernel after this cell."""
        self.exit_now = not self.keepkernel_on_exit
        self.payload_manager.write_payload({"source": "ask_exit", "keepkernel": bool(self.keepkernel_on_exit)})

    # --- requests ----------------------------------------------------------------------------------------------------

    def note_request(self, serial: int, request: Callable[[], dict[str, Any]]) -> None:
        """Remember which request `serial` stands for."""
        self._requests[serial] = request
        if len(self._requests) > _REQUESTS_KEPT:
            # The newest cell may run for hours, under thousands of comm messages.
            del self._requests[next(serial for serial in list(self._requests) if serial != parents.newest())]

    def get_parent(self, channel: str | None = None) -> dict[str, Any]:
        """Return the request that is being handled, as a message with header, metadata and content."""
        request = self._requests.get(parents.current())
        if request is None:
            return {}
        return request()

    def set_parent(self, parent: dict[str, Any], channel: str = "shell") -> None:
        """Have output of the current context belong to the request `parent`."""
        serial = self.serial_of(parent)
        if serial:
            parents.set_thread_parent(serial)

    def set_thread_parent(self, parent: dict[str, Any]) -> Any:
        """Have the calling thread's output belong to `parent`; the token is for `reset_thread_parent`."""
        return parents.set_thread_parent(self.serial_of(parent))

    def reset_thread_parent(self, token: Any) -> None:
        """Undo `set_thread_parent`."""
        parents.reset_thread_parent(token)

    @property
    def parent_header(self) -> dict[str, Any]:
        """The request that is being handled."""
        return self.get_parent()

    @parent_header.setter
    def parent_header(self, parent: dict[str, Any]) -> None:
        self.set_parent(parent)

    def serial_of(self, parent: dict[str, Any]) -> int:
        """Return the serial of a request message (or header), 0 for one that is not known any more."""
        header = parent.get("header", parent)
        wanted = header.get("msg_id")
        for serial in reversed(list(self._requests)):
            if self._requests[serial]().get("header", {}).get("msg_id") == wanted:
                return serial
        return 0

    # --- running -----------------------------------------------------------------------------------------------------

    def count_from(self, number: int) -> None:
        """Give the next cell this number."""
        # Not through the trait, which costs more than it checks: nobody observes it.
        self._trait_values["execution_count"] = number

    def begin_cell(self) -> None:
        """Forget the last cell's traceback, and put back what it took out of the namespace."""
        self.put_back_internals()
        self.last_traceback = None
        self.has_display_failed = False

    def put_back_internals(self) -> None:
        """Undo what user code did to the names that the shell itself needs, such as `globals().clear()`."""
        put_back(self.user_ns, self.internals)

    def run_cell(self, *args: Any, **kwargs: Any) -> Any:
        """Run a cell from code."""
        self.begin_cell()
        return super().run_cell(*args, **kwargs)

    def transform_cell(self, raw_cell: str) -> str:
        """Return the cell as Python: what is Python already needs no transforms, which take longer than parsing it."""
        if self._is_plain(raw_cell):
            source = raw_cell if raw_cell.endswith("\n") else raw_cell + "\n"
            if self.compile.parses(source, raw_cell):
                return source
        return self.transform_fully(raw_cell)

    def transform_fully(self, raw_cell: str) -> str:
        """Return the cell as Python, whatever it looks like."""
        transformed: str = super().transform_cell(raw_cell)
        return transformed

    def _is_plain(self, cell: str) -> bool:
        """Return whether only Python's parser has to be asked: nothing is there that IPython might take for its own.

        Whatever of IPython's syntax (`%`, `!`, `?`) is left is a syntax error in Python; prompts are not always. A
        single line may also be an automatic magic (`ls`) or an autocall (`exit`), which are valid names.
        """
        manager = self.input_transformer_manager
        if (
            not cell
            or cell[0].isspace()
            or self.input_transformers_post
            or self.autocall
            or manager.cleanup_transforms != _TRANSFORMS.cleanup_transforms
            or manager.line_transforms != _TRANSFORMS.line_transforms
            or manager.token_transformers != _TRANSFORMS.token_transformers
            or len(self.prefilter_manager.checkers) != _CHECKERS
            or self.prefilter_manager.transformers
            # Prompts, which are valid Python in some places.
            or ">>>" in cell
            or "In [" in cell
            or "...:" in cell
        ):
            return False
        if "\n" in cell[:-1]:
            return True
        match = _NAME.match(cell)
        if match is None:
            return True
        name = match[0]
        value = self.user_ns.get(name)
        if value is not None:
            return not isinstance(value, IPyAutocall | Macro)
        return self.find_magic(name) is None

    async def run_ast_nodes(
        self,
        nodelist: list[Any],
        cell_name: str,
        interactivity: str = "last_expr",
        compiler: Any = builtins.compile,
        result: Any = None,
    ) -> bool:
        """Run a cell's statements; return whether one raised. Compiled code is cached where nothing rewrites trees."""
        if not nodelist:
            return False
        if not isinstance(compiler, CellCompiler):
            raised: bool = await super().run_ast_nodes(nodelist, cell_name, interactivity, compiler, result)
            return raised
        try:
            source = "" if self.ast_transformers else self.last_transformed
            codes = compiler.compile_cell(nodelist, cell_name, interactivity, source=source, may_await=self.autoawait)
        except BaseException:  # noqa: BLE001 - odd code that parses but does not compile
            codes = None
        if codes is None:
            # IPython compiles statement by statement: what precedes that one runs.
            raised = await super().run_ast_nodes(nodelist, cell_name, interactivity, compiler, result)
            return bool(raised)
        for code, awaits in codes:
            if await self.run_code(code, result, async_=awaits):
                return True
        return False

    async def run_code(self, code_obj: CodeType, result: Any = None, *, async_: bool = False) -> bool:
        """Run one code object; return whether it raised, which has then been shown."""
        running = super().run_code(code_obj, result, async_=async_)
        begun = time.monotonic()
        try:
            raised: bool = await (InterruptibleAwait(running, self.kernel.cancellation) if async_ else running)
        finally:
            self.code_s += time.monotonic() - begun
        return raised

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Show the error that is being handled, or the given one, plainly where IPython cannot format it."""
        error = sys.exc_info()[1] if exc_tuple is None else exc_tuple[1]
        try:
            super().showtraceback(exc_tuple, *args, **kwargs)
        except Exception:  # formatting runs user code
            if error is None:
                raise
        else:
            # IPython prints what it lacked the memory to format, and leaves it at that.
            if not isinstance(error, MemoryError) or self.last_traceback is not None:
                return
        self._showtraceback(type(error), error, [f"{type(error).__name__}: {text_of(error)}"])

    def _get_exc_info(self, exc_tuple: Any = None) -> tuple[type[BaseException], BaseException, TracebackType | None]:
        """Return the error to show, without the kernel's own frames."""
        kind, error, traceback = super()._get_exc_info(exc_tuple)
        strip_chain(error)
        kept = of_user(traceback)
        if kept is not traceback:
            sys.last_traceback = error.__traceback__ = kept
        return kind, error, kept

    def _format_exception_for_storage(
        self,
        exception: BaseException,
        filename: str | None = None,
        running_compiled_code: bool = False,
    ) -> dict[str, Any]:
        """Return what `%notebook` stores of an error: what was shown. IPython would format it a second time."""
        name = type(exception).__name__
        return {"ename": name, "evalue": text_of(exception), "traceback": self.last_traceback or [name]}

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException | None, stb: list[str]) -> None:
        """Publish a traceback as `error` (Jupyter messaging, "Execution errors")."""
        if self.displayhook.msg is not None:
            self.has_display_failed = True
        traceback = list(stb)
        if not self.has_started:
            # A start-up file's, which no cell has asked for: the front logs what a worker says while it starts.
            STDERR.write("\n".join(traceback) + "\n")
            return
        self.outlet.publish("error", {"ename": str(etype.__name__), "evalue": text_of(evalue), "traceback": traceback})
        self.last_traceback = traceback

    def enable_gui(self, gui: str | None = None) -> None:
        """Let a toolkit's windows live; asyncio runs anyway, and figures in the front end need nothing.

        Raises:
            UsageError: the toolkit is not supported, or not there.
        """
        if gui is not None and gui not in _GUIS_WITHOUT_A_LOOP:
            self._open_toolkits().enable(gui)
        elif self._toolkits is not None:
            self._toolkits.disable()
        self.active_eventloop = gui

    def _open_toolkits(self) -> Toolkits:
        if self._toolkits is None:
            from capsule_kernel.worker.toolkits import Toolkits

            self._toolkits = Toolkits()
        return self._toolkits

    # --- children ----------------------------------------------------------------------------------------------------

    def system_piped(self, cmd: str) -> None:
        """Run a shell command with its output in the cell; its exit status is `_exit_code`.

        Raises:
            OSError: `cmd` asks for the background, which has no place to write to.
        """
        if cmd.rstrip().endswith("&"):
            raise OSError("Background processes not supported.")
        status = run_command(self.var_expand(cmd, depth=1))
        if self.outlet.channel is not None:
            settle(self.outlet.channel)
        self.user_ns["_exit_code"] = status
        if getattr(self, "system_raise_on_error", False) and status != 0:
            raise CalledProcessError(status, cmd)

    system = system_piped


_REQUESTS_KEPT = 1024
_GUIS_WITHOUT_A_LOOP = (None, "", "inline", "asyncio", "notebook", "nbagg", "ipympl", "widget", "webagg")
_NAME = re.compile(r"[^\W\d]\w*")
# What IPython has by itself: anything else, and somebody has added their own.
_TRANSFORMS = TransformerManager()
_CHECKERS = len(default_checkers)
_OURS = "capsule_kernel."


def strip_chain(error: BaseException | None) -> None:
    """Take the kernel's own frames out of the tracebacks of an error's causes and contexts."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        kept = of_user(each.__traceback__)
        if kept is not each.__traceback__:
            each.__traceback__ = kept
        waiting += (each.__cause__, each.__context__)


def of_user(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the kernel's own frames: those above the cell, and the driver of its awaits."""
    kept: list[TracebackType] = []
    frames = 0
    first = traceback
    while traceback is not None:
        frames += 1
        if not str(traceback.tb_frame.f_globals.get("__name__", "")).startswith(_OURS):
            kept.append(traceback)
        traceback = traceback.tb_next
    if len(kept) == frames:
        return first
    result: TracebackType | None = None
    for item in reversed(kept):
        result = TracebackType(result, item.tb_frame, item.tb_lasti, item.tb_lineno)
    return result


def text_of(error: object) -> str:
    """Return the text of an error, whose `__str__` may raise one itself."""
    try:
        return str(error)
    except Exception as exc:  # noqa: BLE001 - an exception's __str__ is user code
        return f"<text not available: __str__ raised {type(exc).__name__}>"


InteractiveShellABC.register(ZMQInteractiveShell)
