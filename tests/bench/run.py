"""One benchmark run: what is measured, on which kernels, and what came out."""

from __future__ import annotations

import gc
import itertools
import sys
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .client import Client
from .process import KernelError, KernelProcess, Scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .figures import Figure
    from .kernels import Kernel


@dataclass
class Outcome:
    """What one kernel showed for one figure: samples in the figure's unit, or why there are none."""

    samples: list[float] = field(default_factory=list)
    failure: str = ""


class Run:
    """The kernels, the figures wanted, the number of rounds, and the outcomes so far."""

    def __init__(
        self, *, kernels: tuple[Kernel, ...], figures: tuple[Figure, ...], rounds: int, quick: bool, scratch: Scratch
    ) -> None:
        self.kernels = kernels
        self.figures = figures
        self.rounds = rounds
        self.quick = quick
        self.scratch = scratch
        self.notes: list[str] = []
        self.outcomes: dict[tuple[str, str], Outcome] = defaultdict(Outcome)
        self._sources = {figure.source for figure in figures}
        self._tags = itertools.count(1)

    @property
    def few_rounds(self) -> int:
        """For what takes seconds per round."""
        return max(1, self.rounds // 2)

    def is_wanted(self, *names: str) -> bool:
        """Whether any of these samples serves a wanted figure."""
        return any(name in self._sources for name in names)

    def interleaved(self, rounds: int) -> Iterator[tuple[int, Kernel]]:
        """Round number and kernel, each round in another order, so that the machine's drift meets all kernels alike."""
        for round_ in range(rounds):
            shift = round_ % len(self.kernels)
            for kernel in self.kernels[shift:] + self.kernels[:shift]:
                yield round_, kernel

    def tag(self, code: str) -> str:
        """The code with a comment that makes it distinct from every other cell of the run."""
        return f"{code}  # {next(self._tags)}"

    def record(self, kernel: Kernel, name: str, *samples: float) -> None:
        """Add samples, in the figure's unit."""
        self.outcomes[name, kernel.name].samples.extend(samples)

    def has_failed(self, kernel: Kernel, *names: str) -> bool:
        """Whether all these figures are known to be out of the kernel's reach."""
        return all(self.outcomes[name, kernel.name].failure for name in names)

    def fail(self, kernel: Kernel, failure: str, *names: str) -> None:
        """Record why the kernel has no such figures, unless it is known already."""
        for name in names:
            outcome = self.outcomes[name, kernel.name]
            outcome.failure = outcome.failure or failure
        print(f"  {kernel.name}: {', '.join(names)}: {failure}", file=sys.stderr)

    def note(self, text: str) -> None:
        """Add a remark for the end of the table."""
        self.notes.append(text)

    @contextmanager
    def attempt(self, kernel: Kernel, *names: str) -> Iterator[None]:
        """A stretch of measuring in which the kernel's failure is recorded for these figures and goes no further."""
        try:
            yield
        except KernelError as failure:
            self.fail(kernel, str(failure), *names)

    @contextmanager
    def client(self, kernel: Kernel) -> Iterator[Client]:
        """A fresh kernel, ready, with its first cell behind it.

        A start that fails is tried once more, and named below the table: ports are chosen before the kernel takes them.
        """
        with ExitStack() as stack:
            try:
                client = self._start(kernel, stack)
            except KernelError as failure:
                stack.close()
                client = self._start(kernel, stack)
                self.note(f"{kernel.name}: started at the second attempt; the first: {failure}")
            yield client

    def _start(self, kernel: Kernel, stack: ExitStack) -> Client:
        process = stack.enter_context(KernelProcess(kernel, self.scratch).start())
        client = stack.enter_context(Client(process))
        client.wait_ready()
        client.execute_ok(self.tag("pass"))
        return client


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep this process's garbage collector out of the samples."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
