"""The link's messages: what the front and a worker, and the front and the zygote, may say to each other.

Each direction is one closed union; a reader is one `match` over it. Contents that only pass through the front on their
way to a front end are JSON already (`bytes`), so that the front signs them without looking inside. `serial` is the
number that the front gave a request; a worker quotes it as the parent of everything that the request causes.
"""

from __future__ import annotations

import enum
import signal
from typing import Any

import msgspec

INTERRUPT_SIGNAL = signal.SIGRTMIN + 5
"""How the front interrupts a worker. A signal of its own, so that the worker can tell the front's interrupts from the
SIGINT that front ends may send to every process themselves."""

PROTOCOL_VERSION = 1
"""Version of the link's protocol, exchanged in `Ready`."""

NO_PARENT = 0
"""Serial of output that no request caused."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    pass


# --- front to worker, main link: read by the worker's main thread ---------------------------------------------------


class Execute(_Message, frozen=True, kw_only=True, tag=1):
    """Run a cell (Jupyter messaging, "Execute")."""

    serial: int
    code: str
    silent: bool
    store_history: bool
    allow_stdin: bool
    execution_count: int
    user_expressions: dict[str, Any]
    parent: bytes
    """The request as JSON: `{"header": …, "metadata": …, "content": {}}`, for `get_ipython().get_parent()`."""
    cell_id: str | None = None


class Shutdown(_Message, frozen=True, kw_only=True, tag=2):
    """Run the exit handlers and leave."""


class Comm(_Message, frozen=True, kw_only=True, tag=7):
    """Hand `comm_open`, `comm_msg` or `comm_close` to its handler (Jupyter messaging, "Custom Messages").

    It goes over the main link, so that it keeps its place among the cells, unless `HandleWhileBlocked` asked for the
    side link.
    """

    serial: int
    msg_type: str
    parent: bytes
    """As with `Execute`."""
    content: bytes
    buffers: list[bytes]


class Wake(_Message, frozen=True, kw_only=True, tag=8):
    """The first message to a sleeping snapshot: be the worker from now on."""

    is_chosen: bool = False
    """It was gone back to on purpose: it need not have a snapshot of its own before it serves."""


ToWorker = Execute | Shutdown | Comm | Wake

# --- front to worker, side link: read by the worker's reader thread --------------------------------------------------


class Complete(_Message, frozen=True, kw_only=True, tag=1):
    """Complete code at a position in code points (Jupyter messaging, "Completion")."""

    serial: int
    code: str
    cursor_pos: int


class Inspect(_Message, frozen=True, kw_only=True, tag=2):
    """Describe what stands at a position (Jupyter messaging, "Introspection")."""

    serial: int
    code: str
    cursor_pos: int
    detail_level: int
    omit_sections: list[str]


class InputReply(_Message, frozen=True, kw_only=True, tag=3):
    """What somebody answered to `Ask`; `value` None: nobody did, for the reason in `failure`.

    Attributes:
        failure: `eof`, `canceled`, `timeout`, `unavailable`; empty: this client cannot be asked.
    """

    ask: int
    value: str | None
    failure: str = ""


class Tick(_Message, frozen=True, kw_only=True, tag=4):
    """The cell has run for a while: publish what it wrote, and go on doing so at intervals."""

    serial: int


class HistoryAnswer(_Message, frozen=True, kw_only=True, tag=5):
    """Rows that `HistoryQuery` asked for."""

    ask: int
    rows: list[Any]


class Interrupt(_Message, frozen=True, kw_only=True, tag=6):
    """Interrupt number `number` of execution `serial`: goes with the signal, which may come before the cell begins."""

    serial: int
    number: int


class Debug(_Message, frozen=True, kw_only=True, tag=8):
    """Start the debugger, for which `Debuggable` is the answer, or (`wanted` false) stop it."""

    wanted: bool


class DebugQuestion(_Message, frozen=True, kw_only=True, tag=9):
    """A debugger's request that needs no debugger, such as for variables while nothing is stopped (`debug_request`).

    `Answer` has the body of the response.
    """

    serial: int
    command: str
    arguments: dict[str, Any]


class ExecuteBeside(Execute, frozen=True, kw_only=True, tag=10):
    """Run a cell of a subshell in a thread, whatever the main thread does (JEP 91)."""

    subshell: str


ToReader = (
    Complete | Inspect | InputReply | Tick | HistoryAnswer | Interrupt | Comm | Debug | DebugQuestion | ExecuteBeside
)

# --- worker to front, either link -----------------------------------------------------------------------------------


class Ready(_Message, frozen=True, kw_only=True, tag=1):
    """The worker serves."""

    pid: int
    version: int
    comms: dict[str, str] = {}
    """The comms that are open already, with their targets: this was a snapshot."""
    notes: list[str] = []
    """What a snapshot did not carry over, one sentence each."""
    running: int = 0
    """The request with whose cell it goes on, 0: it waits for a cell."""


class Stream(_Message, frozen=True, kw_only=True, tag=2):
    """Text for `stream` (Jupyter messaging, "Streams").

    Attributes:
        flushed: user code asked for it to be seen at once.
        age_ms: for how long it has been waiting for more, in milliseconds.
    """

    parent: int
    name: str
    text: str
    flushed: bool = False
    age_ms: int = 0


class Publish(_Message, frozen=True, kw_only=True, tag=3):
    """Any other iopub message, its content as JSON."""

    parent: int
    msg_type: str
    content: bytes
    metadata: bytes = b"{}"
    buffers: list[bytes] = []


class AttemptEvent(enum.Enum):
    """What has become of an attempt."""

    BEGUN = "begun"
    KEPT = "kept"
    DISCARDED = "discarded"


class Attempt(_Message, frozen=True, kw_only=True):
    """An attempt was begun or decided; its branch is the snapshot after request `serial`."""

    event: AttemptEvent
    serial: int


class Done(_Message, frozen=True, kw_only=True, tag=4):
    """A cell has ended and everything that it wrote through Python is on the link before this."""

    serial: int
    status: str
    content: bytes
    next_count: int
    transformed: str
    output: str | None = None
    """Text of the cell's result; `logs_output`: to be written to the history file as well."""
    logs_output: bool = False
    exiting: bool = False
    keep_kernel: bool = False
    replace_worker: bool = False
    undo: int = 0
    """How many cells to go back: the state is that of a snapshot from before them."""
    report: bytes = b""
    """What magics have to say to programs, as JSON: `capsule` in the reply's metadata."""
    attempt: Attempt | None = None


class Answer(_Message, frozen=True, kw_only=True, tag=5):
    """Reply content for `Complete` and `Inspect`, as JSON; the body of a response for `DebugQuestion`."""

    serial: int
    content: bytes


class Taken(_Message, frozen=True, kw_only=True, tag=6):
    """The reader thread got the GIL and has begun with a `Complete` or an `Inspect`."""

    serial: int


class Ask(_Message, frozen=True, kw_only=True, tag=7):
    """User code waits for a line (Jupyter messaging, "Messages on the stdin (ROUTER/DEALER) channel")."""

    parent: int
    ask: int
    prompt: str
    password: bool


class InterruptSeen(_Message, frozen=True, kw_only=True, tag=8):
    """The worker's Python code noticed an interrupt: it is not stuck in C."""

    serial: int


class HistoryQuery(_Message, frozen=True, kw_only=True, tag=9):
    """Rows of the history that the front owns; `arguments` as of `history_request`."""

    ask: int
    arguments: dict[str, Any]


class Unasked(_Message, frozen=True, kw_only=True, tag=10):
    """User code no longer waits for `ask`."""

    ask: int


class CommHandled(_Message, frozen=True, kw_only=True, tag=11):
    """The handler of a `Comm` has returned, and everything that it wrote through Python is on the link before this."""

    serial: int
    exiting: bool = False


class HandleWhileBlocked(_Message, frozen=True, kw_only=True, tag=12):
    """From now on send this comm's messages over the side link, or (`wanted` false) no longer."""

    comm_id: str
    wanted: bool


class SnapshotRefused(_Message, frozen=True, kw_only=True, tag=13):
    """No snapshot could be taken after cell `count`, for this reason: a crash would lose what ran since."""

    count: int
    reason: str


class DoneBeside(_Message, frozen=True, kw_only=True, tag=14):
    """A cell of a subshell has ended and everything that it wrote through Python is on the link before this."""

    serial: int
    status: str
    content: bytes
    exiting: bool = False


class Born(_Message, frozen=True, kw_only=True, tag=1):
    """A snapshot sleeps; comes with the front's ends of its two links by SCM_RIGHTS, on the descriptor for births."""

    pid: int
    count: int
    """Number of the newest cell whose effects it holds, 0 for none."""
    serial: int
    cost_us: int
    """What the fork took the worker, in microseconds."""
    running: int = 0
    """The request in the middle of whose cell it is, 0: none."""
    ordinal: int = 0
    """Which call of `checkpoint()` it is: the same for a snapshot that was taken when that was come back to."""
    line: int = 0
    """The line of that call."""


class Errand(_Message, frozen=True, kw_only=True, tag=2):
    """Somebody has a request to the keeper of checkpoints; comes with a socket, on the descriptor for births."""


class Debuggable(_Message, frozen=True, kw_only=True, tag=3):
    """The debugger runs; comes with a socket that speaks its protocol, on the descriptor for births."""

    rules: list[str] = []
    """Patterns of files that are not the user's."""
    error: str = ""
    """Why it does not run, else empty."""


Birth = Born | Errand | Debuggable

FromWorker = (
    Ready
    | Stream
    | Publish
    | Done
    | Answer
    | Taken
    | Ask
    | InterruptSeen
    | HistoryQuery
    | Unasked
    | CommHandled
    | HandleWhileBlocked
    | SnapshotRefused
    | DoneBeside
)

# --- front to zygote and back ---------------------------------------------------------------------------------------

WORKER_DESCRIPTORS = ("main", "side", "stdout", "stderr", "fault", "births")
"""What accompanies `Fork` by SCM_RIGHTS, in this order."""


class Fork(_Message, frozen=True, kw_only=True, tag=1):
    """Make a worker that uses the descriptors sent along."""

    worker: int
    options: bytes
    """`WorkerOptions`, encoded."""


class IsComplete(_Message, frozen=True, kw_only=True, tag=2):
    """Is this code a whole input? (Jupyter messaging, "Code completeness")."""

    serial: int
    code: str


ToZygote = Fork | IsComplete


class ZygoteReady(_Message, frozen=True, kw_only=True, tag=1):
    """IPython and the preloaded modules are imported; `failures` are one line each, for the log."""

    failures: list[str]


class Forked(_Message, frozen=True, kw_only=True, tag=2):
    """The worker runs as `pid`; 0 when the fork failed, for the reason in `error`."""

    worker: int
    pid: int
    error: str = ""


class Exited(_Message, frozen=True, kw_only=True, tag=3):
    """A worker was reaped; `status` as of `waitpid`."""

    pid: int
    status: int


class Completeness(_Message, frozen=True, kw_only=True, tag=4):
    """Answer to `IsComplete`."""

    serial: int
    status: str
    indent: str


FromZygote = ZygoteReady | Forked | Exited | Completeness


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told at its birth."""

    cell_prefix: str
    """Folder under which cells are compiled, with its final separator."""
    executor_factory: str
    compile_cache_size: int
    stream_interval_ms: int
    max_output_bytes: int
    session_name: str
    kernel_argv: list[str]
    connection_file: str
    checkpoint_idle_ms: int = 0
    """Idleness after which a durable checkpoint is due, 0 for never."""
    checkpoint_proof_idle_ms: int = 0
    """Idleness after such a one until it is proven, 0 for never."""
    durable_input: bool = False
    """Whether a cell whose client cannot be asked may ask all the same, and waits for an answer from elsewhere."""
    snapshots: bool = False
    """Whether to take instant snapshots."""


class ZygoteOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the zygote is told on its command line, as JSON."""

    preload: list[str]
    ipython_args: list[str]


encode = msgspec.msgpack.Encoder().encode
encode_birth = msgspec.msgpack.Encoder().encode
decode_birth = msgspec.msgpack.Decoder(Birth).decode
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_to_reader = msgspec.msgpack.Decoder(ToReader).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
decode_to_zygote = msgspec.msgpack.Decoder(ToZygote).decode
decode_from_zygote = msgspec.msgpack.Decoder(FromZygote).decode
