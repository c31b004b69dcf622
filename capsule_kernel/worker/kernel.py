"""What user code and libraries find as `get_ipython().kernel`: ipykernel's attributes, as far as they mean something.

Source: ipykernel's `IPythonKernel`, whose attributes widgets, matplotlib and debuggers use.
"""

from __future__ import annotations

import functools
import getpass
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import comm
from IPython.core.error import StdinNotImplementedError

from capsule_kernel.wire.worker_messages import Ask, FromWorker, InputReply, Unasked
from capsule_kernel.worker import inspection, parents, standin
from capsule_kernel.worker.attempts import Attempts
from capsule_kernel.worker.channel import Channel
from capsule_kernel.worker.executor import Executor
from capsule_kernel.worker.interrupt import ExecutionCancellation
from capsule_kernel.worker.output import flush_streams
from capsule_kernel.worker.polling import Handlers, Polling
from capsule_kernel.worker.standin import IOPubSession, kernel_class

if TYPE_CHECKING:
    from capsule_kernel.worker.checkpoints import Checkpoints


class Questions:
    """Questions that user code has put to somebody outside, and that wait for an answer through the reader thread."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[Any]] = {}

    def open(self) -> int:
        """Return the number of a new question."""
        with self._lock:
            self._count += 1
            self._waiting[self._count] = queue.SimpleQueue()
            return self._count

    def answer(self, ask: int, value: Any) -> None:
        """Hand over an answer; one that nobody waits for any more is dropped."""
        waiting = self._waiting.get(ask)
        if waiting is not None:
            waiting.put(value)

    def wait(self, ask: int, timeout_s: float | None = None) -> Any:
        """Return the answer to `ask`.

        Raises:
            queue.Empty: none came within `timeout_s`.
            KeyboardInterrupt: the cell was interrupted meanwhile.
        """
        try:
            return self._waiting[ask].get(timeout=timeout_s)
        finally:
            del self._waiting[ask]


class WorkerKernel:
    """The worker's face for user code."""

    implementation = "capsule"

    # What libraries look at before they do something themselves; here it never is otherwise.
    _aborting = False
    shell_stream: Any = None

    def __init__(
        self,
        *,
        shell: Any,
        channel: Channel,
        cancellation: ExecutionCancellation,
        questions: Questions,
        connection_file: str,
        durable_input: bool = False,
    ) -> None:
        self.shell = shell
        self.cancellation = cancellation
        self.connection_file = connection_file
        self.executor: Executor | None = None
        self.replace_worker = False
        self.undo = 0
        self.captures_output = False
        self.attempts = Attempts()
        self.checkpoints: Checkpoints | None = None
        self.report: dict[str, Any] = {}
        self.polling: Polling | None = None
        self.allow_stdin = False
        # What a subshell's cell may ask is its own client's business.
        self.thread = threading.local()
        self.eventloop: Any = None
        self.session = IOPubSession(shell)
        self.iopub_socket = object()
        self._channel = channel
        self._questions = questions
        self._durable_input = durable_input

    @property  # type: ignore[misc]  # typeshed has a setter
    def __class__(self) -> type:
        """The class of ipykernel where somebody has imported that, for libraries that ask `isinstance`."""
        return kernel_class(type(self))

    @property
    def comm_manager(self) -> Any:
        """The targets and open comms."""
        return comm.get_comm_manager()

    def send_to_front(self, message: FromWorker) -> None:
        """Tell the front something."""
        self._channel.send(message)

    def send_response(
        self,
        stream: Any,
        msg_or_type: str | dict[str, Any],
        content: dict[str, Any] | None = None,
        ident: Any = None,
        buffers: Sequence[Any] | None = None,
        track: bool = False,
        header: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        channel: str | None = None,
    ) -> dict[str, Any]:
        """Publish a message on `iopub_socket` that belongs to the request which is being handled."""
        return self.session.send(
            stream, msg_or_type, content, ident=ident, buffers=buffers, track=track, header=header, metadata=metadata
        )

    @property
    def execution_count(self) -> int:
        """Number of the next cell that is stored in the history."""
        return int(self.shell.execution_count)

    @property
    def user_ns(self) -> dict[str, Any]:
        """The namespace."""
        namespace: dict[str, Any] = self.shell.user_ns
        return namespace

    @property
    def parent(self) -> Any:
        """The application, ipykernel's by its name."""
        return self.shell.parent

    @property
    def config(self) -> Any:
        """The configuration that the application has read."""
        return self.shell.config

    @property
    def log(self) -> Any:
        """Where ipykernel's kernel logs."""
        return self.parent.log

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """End the kernel after this cell; whoever started it starts it again, or not, as after any end."""
        self.shell.exit_now = True
        return {"status": "ok", "restart": restart}

    def get_parent(self, channel: str | None = None) -> dict[str, Any]:
        """Return the request that is being handled."""
        parent: dict[str, Any] = self.shell.get_parent(channel)
        return parent

    def set_parent(self, ident: Any, parent: dict[str, Any], channel: str = "shell") -> None:
        """Have output belong to the request `parent`."""
        self.shell.set_parent(parent)

    @property
    def _parent_header(self) -> dict[str, Any]:
        return self.get_parent()

    @property
    def _parent_ident(self) -> dict[str, bytes]:
        # Whose the request is only the front knows; libraries hand it back to `set_parent`.
        return {"shell": b"", "control": b""}

    @functools.cached_property
    def shell_handlers(self) -> dict[str, Any]:
        """What handles requests, by their type; see `Handlers`."""
        return Handlers(self)

    @functools.cached_property
    def control_handlers(self) -> dict[str, Any]:
        """As `shell_handlers`."""
        return Handlers(self)

    def pre_handler_hook(self) -> None:
        """Do nothing; there to be called."""

    def post_handler_hook(self) -> None:
        """Do nothing; there to be called."""

    async def execute_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Do nothing: the front has the requests, and sends a cell when it is its turn."""

    async def comm_open(self, stream: Any, ident: Any, msg: dict[str, Any]) -> None:
        """Handle a message as if a client had sent it."""
        self.comm_manager.comm_open(stream, ident, msg)

    async def comm_msg(self, stream: Any, ident: Any, msg: dict[str, Any]) -> None:
        """Handle a message as if a client had sent it."""
        self.comm_manager.comm_msg(stream, ident, msg)

    async def comm_close(self, stream: Any, ident: Any, msg: dict[str, Any]) -> None:
        """Handle a message as if a client had sent it."""
        self.comm_manager.comm_close(stream, ident, msg)

    async def do_one_iteration(self) -> None:
        """Handle the widgets' messages that have come in while a cell runs; see `Polling`."""
        if self.polling is not None:
            await self.polling.do_one_iteration()

    def do_complete(self, code: str, cursor_pos: int | None) -> dict[str, Any]:
        """Complete code; from any thread (VS Code calls this from code that it executes)."""
        return inspection.complete(self.shell, code, cursor_pos)

    def do_inspect(
        self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Inspect what stands at a position; from any thread."""
        return inspection.inspect(self.shell, code, cursor_pos, detail_level, omit_sections)

    def raw_input(self, prompt: object = "") -> str:
        """Ask the front end for a line: the cell's `input`.

        Raises:
            StdinNotImplementedError: the client that runs this cell cannot be asked.
            EOFError: the user ended the input.
        """
        return self._ask(str(prompt), password=False)

    def getpass(self, prompt: str = "", stream: Any = None, **unused: Any) -> str:
        """Ask the front end for a line that is not shown."""
        return self._ask(str(prompt), password=True)

    def take_over_input(self) -> Callable[..., str]:
        """Have `getpass` ask the front end, and return what `input` has to be."""
        getpass.getpass = self.getpass
        return self.raw_input

    def _ask(self, prompt: str, *, password: bool) -> str:
        """Return the answer to a question.

        Raises:
            StdinNotImplementedError: nobody can be asked.
            EOFError: the question was refused, or the input was ended.
            TimeoutError: nobody answered in time.
            KeyboardInterrupt: the question was canceled, or the cell interrupted.
        """
        if not getattr(self.thread, "allow_stdin", self.allow_stdin) and not self._durable_input:
            standin.refuse_input(password=password)
        flush_streams()
        ask = self._questions.open()
        self._channel.send(Ask(parent=parents.current(), ask=ask, prompt=prompt, password=password))
        try:
            reply: InputReply = self._questions.wait(ask)
        except KeyboardInterrupt:
            self._channel.send(Unasked(ask=ask))
            raise KeyboardInterrupt("Interrupted by user") from None
        value = reply.value
        if value is None:
            raise _refusal(reply.failure)
        if value == "\x04":
            # Jupyter messaging, "Messages on the stdin channel": end of transmission stands for EOF.
            raise EOFError
        if password and self.checkpoints is not None:
            self.checkpoints.secrets.add(value)
        return str(value)


def _refusal(failure: str) -> BaseException:
    """Return what user code gets instead of an answer."""
    match failure:
        case "eof":
            return EOFError("the question was refused")
        case "canceled":
            return KeyboardInterrupt("the question was canceled")
        case "timeout":
            return TimeoutError("nobody answered in time (CapsuleKernel.input_timeout_ms)")
        case "unavailable":
            return StdinNotImplementedError(
                "this client cannot be asked, and the question cannot be recorded to be answered from elsewhere"
            )
        case _:
            return StdinNotImplementedError("the front end did not accept the question")
