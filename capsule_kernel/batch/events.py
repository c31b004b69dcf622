"""What happens in a run of a notebook, as typed events; how they are shown is the observer's business."""

from collections.abc import Callable

import msgspec
from nbformat import NotebookNode


class RunStarted(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel answers and the first cell is next.

    Attributes:
        notebook: the notebook's file name.
        kernel: the kernel's name for people.
        total: how many cells will be executed.
    """

    notebook: str
    kernel: str
    total: int


class RunResumed(msgspec.Struct, frozen=True, kw_only=True):
    """Cells that an earlier process of this run has finished are not executed again.

    Attributes:
        done: how many.
    """

    done: int


class RunWaits(msgspec.Struct, frozen=True, kw_only=True):
    """The run goes on when somebody answers a question.

    Attributes:
        question: its id, for `capsule answer`.
        prompt: what is asked.
    """

    question: str
    prompt: str


class CellStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A cell is about to be executed.

    Attributes:
        number: its number among the executed cells, from 1.
        source: its code.
    """

    number: int
    source: str


class CellOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A cell wrote something.

    Attributes:
        output: in the notebook format (nbformat 4: stream, display_data, execute_result or error).
    """

    output: NotebookNode


class CellFinished(msgspec.Struct, frozen=True, kw_only=True):
    """A cell ended.

    Attributes:
        number: its number among the executed cells, from 1.
        duration_ms: how long it took, in milliseconds.
        error: name of its error; empty when there was none.
        expected: the error is one that the cell's tag `raises-exception` announces.
    """

    number: int
    duration_ms: float
    error: str
    expected: bool


class RunFinished(msgspec.Struct, frozen=True, kw_only=True):
    """The run ended; the kernel is gone.

    Attributes:
        executed: how many cells were executed, a failed one included.
        failed: how many of them failed unexpectedly.
        duration_ms: how long the run took, in milliseconds, the kernel's start included.
    """

    executed: int
    failed: int
    duration_ms: float


type RunEvent = RunStarted | RunResumed | RunWaits | CellStarted | CellOutput | CellFinished | RunFinished
type Observer = Callable[[RunEvent], None]
