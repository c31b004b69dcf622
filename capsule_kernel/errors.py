"""Capsule's error tree: every error of ours has fields, and makes its text in `__str__`; nobody parses the text.

An error says what was wrong, with what value, and what to do. It knows nothing about how it is shown.
"""


class CapsuleError(Exception):
    """Root of all errors that Capsule raises on purpose."""


class ConfigurationError(CapsuleError):
    """A setting, an argument or a configuration file cannot be used.

    Attributes:
        source: where it comes from: the argument as typed, or the path of the file.
        name: the setting, for example `CapsuleKernel.preload`; empty when the whole source is meant.
        value: what was given, as text; empty when there is none.
        expected: what would be right, in words.
    """

    def __init__(self, *, source: str, name: str = "", value: str = "", expected: str) -> None:
        super().__init__(source, name, value, expected)
        self.source = source
        self.name = name
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        where = f"{self.source}: {self.name}" if self.name and self.name not in self.source else self.source
        given = f" = {self.value}" if self.value and self.value not in self.source else ""
        return f"{where}{given}: expected {self.expected}"


class ProtocolError(CapsuleError):
    """A peer on a link broke the link's protocol; the link cannot be used any more.

    Attributes:
        reason: what was seen and what is allowed.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"broken link: {self.reason}"


class DebuggerGone(CapsuleError):
    """The debugger in a worker ended before it had answered: the worker has died, or the debugger was stopped.

    Attributes:
        command: what it was asked.
    """

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command

    def __str__(self) -> str:
        return f"the debugger has ended before it answered {self.command!r}"


class MessageRejected(CapsuleError):
    """A front end's message cannot be accepted; it is dropped, and the kernel goes on.

    Attributes:
        reason: what is wrong with it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"message dropped: {self.reason}"


class ConnectionFileError(CapsuleError):
    """The connection file is missing or is not one.

    Attributes:
        path: the file.
        reason: what is wrong with it and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"connection file {self.path}: {self.reason}"


class BindError(CapsuleError):
    """A channel's address cannot be bound.

    Attributes:
        channel: `shell`, `iopub`, `stdin`, `control` or `hb`.
        address: the ZMQ address.
        reason: the system's words.
    """

    def __init__(self, channel: str, address: str, reason: str) -> None:
        super().__init__(channel, address, reason)
        self.channel = channel
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot bind the {self.channel} channel to {self.address}: {self.reason}"


class ReplayUnavailable(CapsuleError):
    """A kernel did not say what its cells have put out.

    Attributes:
        reason: what happened.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"capsule_replay_request failed: {self.reason}; only kernels of Capsule know it"


class OutputUnavailable(CapsuleError):
    """Standard output cannot be written; what the command did is done.

    Attributes:
        reason: the system's words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"standard output cannot be written: {self.reason}"


class ReaderGone(OutputUnavailable):
    """Who read standard output wants no more of it."""


class WorkerStartError(CapsuleError):
    """No worker could be started.

    Attributes:
        reason: what happened.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot start a worker: {self.reason}"


class IllegalTransition(CapsuleError):
    """A session was told something that its phase does not allow: a defect of Capsule.

    Attributes:
        phase: where it stands.
        event: what was said.
    """

    def __init__(self, phase: str, event: str) -> None:
        super().__init__(phase, event)
        self.phase = phase
        self.event = event

    def __str__(self) -> str:
        return f"a session in phase {self.phase} cannot take {self.event}"


class OutputTooLarge(CapsuleError):
    """User code sends a message that cannot be shortened, as displays can, and is larger than the settings allow.

    Attributes:
        msg_type: its type.
        size_bytes: content and buffers together.
        limit_bytes: the value of `CapsuleKernel.max_output_bytes`.
    """

    def __init__(self, msg_type: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(msg_type, size_bytes, limit_bytes)
        self.msg_type = msg_type
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"a {self.msg_type} of {self.size_bytes:,} bytes was not sent: more than CapsuleKernel.max_output_bytes = "
            f"{self.limit_bytes:,}"
        )


class KernelSpecError(CapsuleError):
    """A kernelspec cannot be installed or removed.

    Attributes:
        name: the kernelspec's name.
        folder: where it is, or would be; empty when that does not matter.
        reason: what is wrong and what to do.
    """

    def __init__(self, *, name: str, folder: str = "", reason: str) -> None:
        super().__init__(name, folder, reason)
        self.name = name
        self.folder = folder
        self.reason = reason

    def __str__(self) -> str:
        where = f" in {self.folder}" if self.folder else ""
        return f"kernelspec {self.name!r}{where}: {self.reason}"


class NotebookError(CapsuleError):
    """A notebook cannot be read, run or written.

    Attributes:
        path: the notebook.
        reason: what is wrong and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class NotebookRunError(NotebookError):
    """Nothing is wrong with the notebook or the command, but the run could not be carried through."""


class RunUnavailable(CapsuleError):
    """A durable run cannot be begun, or go on; what it has finished stays finished.

    Attributes:
        run_id: the run.
        reason: what happened and what to do.
    """

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(run_id, reason)
        self.run_id = run_id
        self.reason = reason

    def __str__(self) -> str:
        return f"run {self.run_id}: {self.reason}"


class StateError(CapsuleError):
    """Something about saved state: checkpoints, the store that holds them, what is restored from them."""


class StoreUnavailable(StateError):
    """The store cannot be opened or written; what it holds is untouched, and the running session is too.

    Attributes:
        path: the store's folder, or the file in it that refused.
        reason: what happened and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"checkpoint store {self.path}: {self.reason}"


class StoreDamaged(StateError):
    """A part of the store is not what was written there; whatever does not need it stays readable.

    Attributes:
        path: the file.
        what: the part that is hit.
        reason: what was found.
    """

    def __init__(self, path: str, what: str, reason: str) -> None:
        super().__init__(path, what, reason)
        self.path = path
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"checkpoint store {self.path}: {self.what} is damaged: {self.reason}"


class ChunksMissing(StateError):
    """A checkpoint refers to parts that the store does not hold any more: capture it again, taking nothing as known.

    Attributes:
        count: how many parts.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count

    def __str__(self) -> str:
        return f"{self.count} parts of the checkpoint are not in the store: take it again in full"


class CheckpointTooLarge(StateError):
    """A checkpoint does not fit under the cap on disk use, even alone.

    Attributes:
        size_bytes: what it would take, so far as it was written.
        cap_bytes: the cap.
    """

    def __init__(self, size_bytes: int, cap_bytes: int) -> None:
        super().__init__(size_bytes, cap_bytes)
        self.size_bytes = size_bytes
        self.cap_bytes = cap_bytes

    def __str__(self) -> str:
        return (
            f"the checkpoint needs more than {self.size_bytes:,} bytes, the cap on disk use is {self.cap_bytes:,}: "
            f"raise the cap, or delete large variables"
        )


class ManifestRejected(StateError):
    """A checkpoint's manifest cannot be used: a checkpoint is code, so what is not ours, or not readable, is refused.

    Attributes:
        checkpoint: which one, as text.
        reason: what is wrong with it and what to do.
    """

    def __init__(self, checkpoint: str, reason: str) -> None:
        super().__init__(checkpoint, reason)
        self.checkpoint = checkpoint
        self.reason = reason

    def __str__(self) -> str:
        return f"checkpoint {self.checkpoint} refused: {self.reason}"


class CheckpointDeclined(StateError):
    """The keeper of the store did not do what a worker asked for; nothing was changed.

    Attributes:
        reason: the keeper's error, in words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class PromiseError(CapsuleError):
    """Something about promises: their ids, the store that holds them, the server."""


class InvalidPromiseId(PromiseError):
    """A text cannot be (part of) a promise's id.

    Attributes:
        text: what was given.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"{self.text!r} cannot be part of a promise's id: use letters, digits, '_' and '-'"


class PromiseNotFound(PromiseError):
    """There is no promise of this id (any more).

    Attributes:
        promise_id: the id.
    """

    def __init__(self, promise_id: str) -> None:
        super().__init__(promise_id)
        self.promise_id = promise_id

    def __str__(self) -> str:
        return f"there is no promise {self.promise_id!r}"


class QuestionClosed(PromiseError):
    """A question cannot be answered any more.

    Attributes:
        promise_id: the question's.
        reason: how it ended.
    """

    def __init__(self, promise_id: str, reason: str) -> None:
        super().__init__(promise_id, reason)
        self.promise_id = promise_id
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.promise_id} cannot be answered: {self.reason}"


class AnswerMissing(PromiseError):
    """No answer to a question was given: it stays open.

    Attributes:
        promise_id: the question's.
        reason: what came instead.
    """

    def __init__(self, promise_id: str, reason: str) -> None:
        super().__init__(promise_id, reason)
        self.promise_id = promise_id
        self.reason = reason

    def __str__(self) -> str:
        return f"question {self.promise_id} stays open: {self.reason}; give the answer as an argument, or --refuse"


class PromiseRejected(PromiseError):
    """The promises' store or server answered a request with an error.

    Attributes:
        kind: the request, for example `promise.create`.
        status: the answer's status, as in HTTP.
        reason: the answer's text.
    """

    def __init__(self, kind: str, status: int, reason: str) -> None:
        super().__init__(kind, status, reason)
        self.kind = kind
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.kind} was refused with status {self.status}: {self.reason}"


class TaskHeld(PromiseError):
    """Another process runs a durable function.

    Attributes:
        promise_id: the function's promise.
        holder: that process, as it calls itself.
    """

    def __init__(self, promise_id: str, holder: str) -> None:
        super().__init__(promise_id, holder)
        self.promise_id = promise_id
        self.holder = holder

    def __str__(self) -> str:
        return f"{self.promise_id} is run by {self.holder}: wait, or end that process"


class FunctionStopped(PromiseError):
    """A durable function cannot go on.

    Attributes:
        promise_id: the promise, of the function or of its step, that ended it.
        reason: how that was settled, or what did not happen.
    """

    def __init__(self, promise_id: str, reason: str) -> None:
        super().__init__(promise_id, reason)
        self.promise_id = promise_id
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.promise_id} does not go on: {self.reason}"


class FunctionStalled(FunctionStopped):
    """A durable function has not gone on in time; begun again, it may."""


class PromisesUnavailable(PromiseError):
    """The promises' store or server cannot be used now; nothing that it acknowledged is lost.

    Attributes:
        where: the file, or the server's URL.
        reason: what happened and what to do.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"promises at {self.where}: {self.reason}"
