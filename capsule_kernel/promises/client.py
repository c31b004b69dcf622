"""What a holder of promises can do, wherever they are kept: a file of this user (`EmbeddedPromises`) or a server.

    async with EmbeddedPromises(promises_file(os.environ)) as promises:
        created = await promises.create(names.input_request(execution_id, 1), {"prompt": "Name? "}, kind="input")
        if not created.is_new: ...                      # somebody asked that already: `created.promise` is theirs
        promise = await promises.wait(created.promise.id)
        promise.state, promise.value_data()

The first settlement wins: `is_winner` says whether it was this one, and `promise` is what counts either way.
`note_create` and `note_settle` never wait: they are written a moment later, in their order, and what could not be
written is counted.

Importing `embedded` takes 5 ms and opening the file another: a kernel does both after its start, or with the first
request. `opening.open_promises` chooses by the settings.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from capsule_kernel.promises.model import Promise, Settlement, State

if TYPE_CHECKING:
    from capsule_kernel.promises.durable import DurableFunctions


class Created(msgspec.Struct, frozen=True):
    """What a creation led to.

    Attributes:
        promise: the promise as it is.
        is_new: whether this creation made it; otherwise somebody else had, perhaps with another param.
    """

    promise: Promise
    is_new: bool


class Settled(msgspec.Struct, frozen=True):
    """What a settlement led to.

    Attributes:
        promise: the promise as it is.
        is_winner: whether this settlement is the one that counts.
    """

    promise: Promise
    is_winner: bool


class Statistics(msgspec.Struct):
    """What became of what was noted.

    Attributes:
        noted: how many creations and settlements were noted.
        written: how many of them are kept.
        dropped: how many are lost, because nobody took them for too long.
        refused: how many were answered with an error.
        waiting: how many are still to be written.
        last_error: why the last attempt failed; empty after one that did not.
    """

    noted: int = 0
    written: int = 0
    dropped: int = 0
    refused: int = 0
    waiting: int = 0
    last_error: str = ""


class Promises(Protocol):
    """Durable promises, from one event loop. All errors are `PromiseError`s."""

    @property
    def statistics(self) -> Statistics:
        """What became of what was noted."""

    async def start(self) -> None:
        """Begin. Opening happens with the first request."""

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Write what was noted, wake whoever waits with `PromisesUnavailable`, end."""

    async def create(
        self,
        promise_id: str,
        param: Any = None,
        *,
        kind: str = "",
        tags: dict[str, str] | None = None,
        timeout_at_ms: int | None = None,
        is_durable: bool = False,
    ) -> Created:
        """Create a promise, or find the one of this id.

        Args:
            promise_id: its id (`names`).
            param: what it is about: anything that JSON can hold.
            kind: `exec`, `input`, `approve`: the tag `capsule:kind`.
            tags: further labels to search by.
            timeout_at_ms: when it is rejected by itself (Unix time); never by default.
            is_durable: whether it has to survive the machine's power too, at the price of a write to the disk.
        """

    async def settle(
        self, promise_id: str, state: Settlement, value: Any = None, *, is_durable: bool = False
    ) -> Settled:
        """Settle a promise, unless that is done.

        Raises:
            PromiseNotFound: there is none of this id.
        """

    async def get(self, promise_id: str) -> Promise | None:
        """Return a promise; one that is overdue is settled by that."""

    async def search(
        self,
        *,
        prefix: str = "",
        state: State | None = None,
        kind: str | None = None,
        tags: dict[str, str] | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> list[Promise]:
        """Return promises in the order of their ids; the next page is `after` the last one's id."""

    async def wait(self, promise_id: str, timeout_s: float | None = None) -> Promise:
        """Wait until a promise is settled, by whatever process, and return it. Its own timeout counts as well.

        Raises:
            PromiseNotFound: there is none of this id.
            TimeoutError: `timeout_s` passed.
        """

    def address_of(self, group: str) -> str:
        """Return where work for a group of processes is sent: the `resonate:target` of a durable function."""

    async def functions(self, *, group: str, pid: str, ttl: timedelta, is_durable: bool) -> DurableFunctions:
        """Return durable functions on these promises, not yet running; imports Resonate's SDK, on another thread.

        Args:
            group: the group whose work this process takes.
            pid: this process, as holder of tasks.
            ttl: how long a task stays held when this process dies.
            is_durable: whether what is kept waits for the disk, where that is for this process to decide.
        """

    async def free_task(self, task_id: str, is_over: Callable[[str], bool]) -> str:
        """Have a durable function's task held by nobody, if a process holds it that has ended.

        Args:
            task_id: the function's promise.
            is_over: whether a process, by the pid that it gave, is known to have ended.

        Returns:
            The pid of the process that holds it now; empty: nobody does.
        """

    def note_create(
        self,
        promise_id: str,
        param: Any = None,
        *,
        kind: str = "",
        tags: dict[str, str] | None = None,
        timeout_at_ms: int | None = None,
    ) -> None:
        """Create a promise a moment later."""

    def note_settle(self, promise_id: str, state: Settlement, value: Any = None) -> None:
        """Settle a promise a moment later."""

    async def flush(self, timeout_s: float = 2.0) -> bool:
        """Write what was noted; return whether all of it is kept now."""
