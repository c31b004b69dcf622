"""Each error's text names what was wrong, with what value, and what to do; its fields say the same to code."""

from __future__ import annotations

import pytest

from capsule_kernel import errors
from capsule_kernel.errors import (
    AnswerMissing,
    BindError,
    CapsuleError,
    CheckpointDeclined,
    CheckpointTooLarge,
    ChunksMissing,
    ConfigurationError,
    ConnectionFileError,
    DebuggerGone,
    FunctionStalled,
    FunctionStopped,
    IllegalTransition,
    InvalidPromiseId,
    KernelSpecError,
    ManifestRejected,
    MessageRejected,
    NotebookError,
    NotebookRunError,
    OutputTooLarge,
    OutputUnavailable,
    PromiseNotFound,
    PromiseRejected,
    PromisesUnavailable,
    ProtocolError,
    QuestionClosed,
    ReaderGone,
    ReplayUnavailable,
    RunUnavailable,
    StoreDamaged,
    StoreUnavailable,
    TaskHeld,
    WorkerStartError,
)

SAMPLES: list[tuple[CapsuleError, list[str]]] = [
    (
        ConfigurationError(source="c.py", name="CapsuleKernel.spare_workers", value="-1", expected="a number >= 0"),
        ["c.py", "CapsuleKernel.spare_workers", "= -1", "expected a number >= 0"],
    ),
    (ConfigurationError(source="c.py", expected="Python code"), ["c.py: expected Python code"]),
    # An argument as typed holds name and value already.
    (
        ConfigurationError(source="--CapsuleKernel.x=no", name="CapsuleKernel.x", value="no", expected="a number"),
        ["--CapsuleKernel.x=no: expected a number"],
    ),
    (ProtocolError("a frame of 9 bytes; the limit is 5"), ["broken link", "9 bytes", "limit is 5"]),
    (DebuggerGone("stackTrace"), ["the debugger has ended", "stackTrace"]),
    (MessageRejected("signature does not match"), ["message dropped", "signature does not match"]),
    (ConnectionFileError("/run/k.json", "there is no such file"), ["connection file /run/k.json", "no such file"]),
    (
        BindError("shell", "tcp://127.0.0.1:80", "Permission denied"),
        ["shell channel", "tcp://127.0.0.1:80", "Permission denied"],
    ),
    (ReplayUnavailable("no answer within 1 s"), ["capsule_replay_request", "no answer within 1 s"]),
    (WorkerStartError("fork failed: no memory"), ["cannot start a worker", "fork failed: no memory"]),
    (IllegalTransition("dead", "execute"), ["phase dead", "cannot take execute"]),
    (
        OutputTooLarge("comm_msg", 1_234_567, 1_000),
        ["comm_msg", "1,234,567 bytes", "CapsuleKernel.max_output_bytes = 1,000"],
    ),
    (
        KernelSpecError(name="capsule", folder="/share", reason="it is not installed; capsule install does it"),
        ["'capsule'", "/share", "not installed", "capsule install"],
    ),
    (KernelSpecError(name="a b", reason="use letters"), ["kernelspec 'a b': use letters"]),
    (NotebookError("a.ipynb", "it is not JSON"), ["a.ipynb", "it is not JSON"]),
    (NotebookRunError("a.ipynb", "the kernel died"), ["a.ipynb", "the kernel died"]),
    (StoreUnavailable("/s", "disk full; free some space"), ["checkpoint store /s", "disk full; free some space"]),
    (
        StoreDamaged("/s/pack", "a variable of checkpoint 3", "its hash differs"),
        ["/s/pack", "a variable of checkpoint 3 is damaged", "its hash differs"],
    ),
    (ChunksMissing(3), ["3 parts of the checkpoint", "take it again in full"]),
    (CheckpointTooLarge(5_000, 4_000), ["5,000 bytes", "is 4,000", "raise the cap, or delete large variables"]),
    (ManifestRejected("7", "it was signed with another key"), ["checkpoint 7 refused", "another key"]),
    (CheckpointDeclined("there is no checkpoint 'x'"), ["there is no checkpoint 'x'"]),
    (InvalidPromiseId("a b"), ["'a b' cannot be part of a promise's id", "use letters, digits"]),
    (PromiseNotFound("exec:k-3"), ["no promise 'exec:k-3'"]),
    (QuestionClosed("k-3:input:1", "it was answered"), ["k-3:input:1 cannot be answered", "it was answered"]),
    (
        AnswerMissing("k-3:input:1", "the input ended"),
        ["question k-3:input:1 stays open", "the input ended", "as an argument, or --refuse"],
    ),
    (OutputUnavailable("No space left on device"), ["standard output cannot be written", "No space left"]),
    (ReaderGone("Broken pipe"), ["standard output cannot be written", "Broken pipe"]),
    (RunUnavailable("nightly-42", "process 7 runs it now"), ["run nightly-42", "process 7 runs it now"]),
    (PromiseRejected("promise.create", 401, "no token"), ["promise.create", "status 401", "no token"]),
    (TaskHeld("nightly-42", "process 7"), ["nightly-42 is run by process 7", "end that process"]),
    (FunctionStopped("nightly-42:3", "canceled"), ["nightly-42:3 does not go on", "canceled"]),
    (FunctionStalled("nightly-42", "its end could not be kept"), ["nightly-42 does not go on", "could not be kept"]),
    (PromisesUnavailable("/p.db", "disk full; free some space"), ["promises at /p.db", "disk full; free some space"]),
]


@pytest.mark.parametrize(("error", "parts"), SAMPLES)
def test_an_errors_text_has_its_parts_in_one_line(error: CapsuleError, parts: list[str]) -> None:
    text = str(error)
    assert all(part in text for part in parts), text
    assert "\n" not in text


@pytest.mark.parametrize(("error", "parts"), SAMPLES)
def test_every_field_that_is_given_is_in_the_text(error: CapsuleError, parts: list[str]) -> None:
    fields = vars(error)
    assert fields
    for name, value in fields.items():
        wanted = f"{value:,}" if isinstance(value, int) else value
        assert wanted in str(error), name


def test_every_error_of_the_tree_is_among_the_samples() -> None:
    tree = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, CapsuleError)}
    # Those without a text of their own are only there to be caught.
    raised = {kind for kind in tree if kind.__str__ is not CapsuleError.__str__}
    assert {type(error) for error, _ in SAMPLES} == raised
