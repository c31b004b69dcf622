"""`InputCapability`: a question of user code is a durable promise, and whoever settles it first has answered.

The client that runs the cell is asked as ever, over stdin; its reply settles the promise like any other answer. What
counts is what the promise says then. Without promises the reply goes straight to the worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capsule_kernel.clock import Clock
from capsule_kernel.errors import CapsuleError
from capsule_kernel.front.bridge import ResonateProtocolBridge
from capsule_kernel.front.requests import Request
from capsule_kernel.front.stdin import Stdin
from capsule_kernel.incarnation import incarnation_of
from capsule_kernel.sessions.session import Session
from capsule_kernel.wire.worker_messages import Ask, InputReply

if TYPE_CHECKING:
    from capsule_kernel.front.secret_door import SecretDoor
    from capsule_kernel.promises.client import Promises
    from capsule_kernel.promises.model import Promise

_log = logging.getLogger(__name__)
_OPEN_DEADLINE_S = 10.0
"""With a server, modules are imported first."""
_STORE_DEADLINE_S = 2.0
_TEXT_MAX = 1 << 20
_AGAIN = 1000
"""What is added to a question's number when it has to be asked once more."""
_LATE = (
    "The question was answered elsewhere, or is over: what was typed here came late and was not used"
    " ({promise_id} says who answered).\n"
)


class _Question:
    """One question that user code waits for."""

    def __init__(self, session: Session, ask: Ask, request: Request | None, *, is_for_client: bool) -> None:
        self.session = session
        self.ask = ask
        self.request = request
        self.is_for_client = is_for_client
        self.promise_id = ""
        self.is_recorded = False
        # By an earlier attempt at the same cell of a durable run.
        self.is_answered = False
        self.is_over = False
        self.door: SecretDoor | None = None
        self.task: asyncio.Task[None] | None = None


class InputCapability:
    """Puts questions, and brings the first answer back.

    Args:
        stdin: the channel to clients.
        bridge: the promises.
        timeout_ms: how long a question waits; 0: as long as it takes.
        tell: publishes a line on a request's stderr.
    """

    def __init__(
        self,
        *,
        stdin: Stdin,
        bridge: ResonateProtocolBridge,
        clock: Clock,
        timeout_ms: int,
        session_name: Callable[[], str],
        tell: Callable[[str, bytes], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._stdin = stdin
        self._bridge = bridge
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._session_name = session_name
        self._tell = tell
        self._loop = loop
        self._questions: list[_Question] = []
        self._settling: set[asyncio.Task[None]] = set()

    def ask(self, session: Session, ask: Ask, request: Request | None, *, is_for_client: bool) -> None:
        """Put a question of `session`; `is_for_client`: the client that sent `request` can be asked."""
        if is_for_client and request is None:
            session.say(InputReply(ask=ask.ask, value=None))
            return
        question = _Question(session, ask, request, is_for_client=is_for_client)
        self._questions.append(question)
        question.task = self._loop.create_task(self._carry(question))

    def withdraw(self, session: Session, ask: int) -> None:
        """Cancel a question: user code waits no more, though it could."""
        for question in [each for each in self._questions if each.session is session and each.ask.ask == ask]:
            self._let_go(question)
            self._forget(question)

    def leave_open(self, session: Session | None = None) -> None:
        """Let go of the questions of `session`, which has died, or of all, since this front ends.

        Their promises stay to be answered: a cell that is run again under the same id finds the answer there.
        """
        for question in [each for each in self._questions if session is None or each.session is session]:
            self._let_go(question)
            if session is not None and question.ask.password:
                # Its answer would have come through a socket that is closed now.
                self._forget(question)

    def _let_go(self, question: _Question) -> None:
        self._end(question)
        if question.task is not None:
            question.task.cancel()

    def _forget(self, question: _Question) -> None:
        """Cancel the promise of a question that nobody waits for, even one that is only being created."""
        if question.promise_id:
            self._spawn(self._cancel(question.promise_id))

    # --- one question ------------------------------------------------------------------------------------------------

    async def _carry(self, question: _Question) -> None:
        promises = await self._record(question)
        if question.is_over:
            return
        if question.is_for_client and not question.is_answered:
            assert question.request is not None
            self._stdin.put(
                question,
                question.request,
                prompt=question.ask.prompt,
                password=question.ask.password,
                on_reply=lambda text: self._replied(question, text),
                on_late=lambda: self._came_late(question),
            )
        elif promises is None:
            self._deliver(question, failure="unavailable")
        if promises is not None:
            try:
                self._take(question, await promises.wait(question.promise_id))
            except CapsuleError as exc:
                # The client's reply still answers, where there is a client.
                _log.warning("the answer to %s may only come from the front end: %s", question.promise_id, exc)
                if not question.is_for_client:
                    self._deliver(question, failure="unavailable")

    async def _record(self, question: _Question) -> Promises | None:
        """Create the promise; None when there are none, or they cannot be had in time."""
        try:
            async with asyncio.timeout(_OPEN_DEADLINE_S):
                promises = await self._bridge.promises()
            if promises is None:
                return None
            async with asyncio.timeout(_STORE_DEADLINE_S):
                await self._create(promises, question)
        except (CapsuleError, OSError, TimeoutError) as exc:
            # An OSError is of the socket for a password. What may be in the store all the same leads nowhere.
            self._forget(question)
            _log.warning(
                "a question is not recorded, and can be answered in the front end only: %s", str(exc) or "not in time"
            )
            return None
        question.is_recorded = True
        return promises

    async def _create(self, promises: Promises, question: _Question) -> None:
        """Create the promise, or find the one of an earlier attempt at the cell that asked the same."""
        from capsule_kernel.promises import names

        ask = question.ask
        execution, ordinal = self._bridge.count_question(ask.parent)
        param: dict[str, Any] = {"v": 1, "prompt": ask.prompt, "password": ask.password}
        if self._bridge.is_own(execution):
            # Who waits: of runs it is whoever runs the cell, now or later.
            param["incarnation"] = incarnation_of(question.session.pid)
        if ask.password:
            question.door = await self._open_door(question)
            param["socket"] = question.door.path
        while True:
            question.promise_id = names.input_request(execution, ordinal)
            created = await promises.create(
                question.promise_id,
                param,
                kind=names.INPUT,
                tags={
                    "capsule:exec": execution,
                    "capsule:session": self._session_name(),
                    "capsule:password": str(ask.password).lower(),
                    "resonate:external": "true",
                },
                timeout_at_ms=self._clock.unix_ms() + self._timeout_ms if self._timeout_ms else None,
                is_durable=True,
            )
            if created.is_new:
                return
            if _serves(created.promise, ask):
                question.is_answered = not created.promise.is_pending
                return
            if created.promise.is_pending:
                await promises.settle(question.promise_id, "rejected_canceled", {"v": 1, "by": "kernel"})
            ordinal += _AGAIN

    def _replied(self, question: _Question, text: str) -> None:
        """Take what the client sent."""
        if not question.is_recorded:
            self._deliver(question, value=text)
            return
        self._spawn(self._settle(question, text, "front end"))

    async def _settle(self, question: _Question, text: str, by: str) -> bool:
        """Settle the promise with an answer; return whether it was the first."""
        value: dict[str, Any] = {"v": 1, "by": by}
        value |= {"taken": True} if question.ask.password else {"text": text}
        try:
            async with asyncio.timeout(_STORE_DEADLINE_S):
                promises = await self._bridge.promises()
                assert promises is not None
                settled = await promises.settle(question.promise_id, "resolved", value, is_durable=True)
        except (CapsuleError, TimeoutError) as exc:
            _log.warning("the answer to %s was not recorded: %s", question.promise_id, str(exc) or "not in time")
            self._deliver(question, value=text)
            return True
        if settled.is_winner:
            self._deliver(question, value=text)
        else:
            self._take(question, settled.promise)
            self._came_late(question)
        return settled.is_winner

    def _take(self, question: _Question, promise: Promise) -> None:
        """Have user code go on with what the promise says."""
        match promise.state:
            case "resolved":
                data = promise.value_data()
                if isinstance(data, dict) and data.get("taken") is True:
                    # The text goes the way that it came: whoever settled with it delivers it.
                    return
                self._deliver(question, value=_text_of(data))
            case "rejected":
                self._deliver(question, failure="eof")
            case "rejected_canceled":
                self._deliver(question, failure="canceled")
            case _:
                self._deliver(question, failure="timeout")

    def _deliver(self, question: _Question, *, value: str | None = None, failure: str = "") -> None:
        if question.is_over:
            return
        self._end(question)
        question.session.say(InputReply(ask=question.ask.ask, value=value, failure=failure))

    def _end(self, question: _Question) -> None:
        question.is_over = True
        if question in self._questions:
            self._questions.remove(question)
        self._stdin.withdraw(question)
        if question.door is not None:
            question.door.close()

    def _came_late(self, question: _Question) -> None:
        if question.request is not None:
            self._tell(_LATE.format(promise_id=question.promise_id or "the cell"), question.request.parent)

    async def _cancel(self, promise_id: str) -> None:
        try:
            promises = await self._bridge.promises()
            if promises is not None:
                await promises.settle(promise_id, "rejected_canceled", {"v": 1, "by": "kernel"})
        except CapsuleError as exc:
            _log.warning("%s stays open, though nobody waits for it: %s", promise_id, exc)

    async def _open_door(self, question: _Question) -> SecretDoor:
        from capsule_kernel.front.secret_door import SecretDoor

        return await SecretDoor.open(lambda text: self._settle(question, text, "command"))

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)


def _serves(promise: Promise, ask: Ask) -> bool:
    """Return whether an earlier attempt's promise has the answer, or will have it: passwords are nowhere kept."""
    param = promise.param_data()
    is_same = isinstance(param, dict) and param.get("prompt") == ask.prompt and param.get("password") is False
    return is_same and not ask.password and promise.state in {"pending", "resolved"}


def _text_of(data: Any) -> str:
    """Return the text of an answer, whoever wrote it: an object with `text`, a JSON string, or raw text."""
    if isinstance(data, dict) and isinstance(data.get("text"), str):
        return str(data["text"])[:_TEXT_MAX]
    return "" if data is None else str(data)[:_TEXT_MAX]
