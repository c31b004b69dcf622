"""Cells of subshells: each in a thread beside the main one, with the same namespace (JEP 91).

IPython's shell keeps the state of the one cell that it runs, which is the main shell's: In, Out, `_`, events, payloads.
A subshell's cell has the transforms, displays and tracebacks of IPython, and none of that state. What awaits is a task
on the one loop: it goes on when the main thread awaits or is idle.
"""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import contextvars
import copy
import inspect
import threading
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from capsule_kernel.wire.worker_messages import DoneBeside, ExecuteBeside
from capsule_kernel.worker import parents
from capsule_kernel.worker.channel import Channel
from capsule_kernel.worker.compiling import split_for_display
from capsule_kernel.worker.loop import EventLoopCoordinator
from capsule_kernel.worker.mimejson import encode_content
from capsule_kernel.worker.output import flush_streams
from capsule_kernel.worker.shell import of_user, strip_chain, text_of

if TYPE_CHECKING:
    from capsule_kernel.worker.kernel import WorkerKernel
    from capsule_kernel.worker.shell import ZMQInteractiveShell

_CONTEXTS_KEPT = 64


class _Step(NamedTuple):
    """One statement of a cell, compiled."""

    code: CodeType
    is_shown: bool
    awaits: bool


class SubshellExecutor:
    """Runs the cells of subshells; the front sees to it that each subshell runs one at a time."""

    def __init__(
        self,
        *,
        shell: ZMQInteractiveShell,
        channel: Channel,
        coordinator: EventLoopCoordinator,
        kernel: WorkerKernel,
    ) -> None:
        self._shell = shell
        self._channel = channel
        self._coordinator = coordinator
        self._kernel = kernel
        # Context variables live on between a subshell's cells; threads do not, since snapshots want none.
        self._contexts: dict[str, contextvars.Context] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, message: ExecuteBeside) -> None:
        """Begin with a cell; called in the reader thread."""
        context = self._contexts.pop(message.subshell, None) or self._coordinator.context.copy()
        self._contexts[message.subshell] = context
        if len(self._contexts) > _CONTEXTS_KEPT:
            del self._contexts[next(iter(self._contexts))]
        thread = threading.Thread(target=self._run, args=(message, context), name="capsule-subshell", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            error = {"ename": "NoThread", "evalue": str(exc), "traceback": [f"NoThread: {exc}"]}
            self._end(message, {"status": "error", **error})

    def _run(self, message: ExecuteBeside, context: contextvars.Context) -> None:
        self._shell.note_request(message.serial, lambda: parents.request_of(message))
        self._kernel.thread.allow_stdin = message.allow_stdin
        content = context.run(self._execute, message)
        # Outside of the context, which the next cell's thread enters.
        self._end(message, content)

    def _end(self, message: ExecuteBeside, content: dict[str, Any]) -> None:
        flush_streams()
        content = {"user_expressions": {}, "execution_count": message.execution_count, "payload": [], **content}
        self._channel.send(
            DoneBeside(
                serial=message.serial,
                status=content["status"],
                content=encode_content(content),
                exiting=bool(self._shell.exit_now),
            )
        )

    def _execute(self, message: ExecuteBeside) -> dict[str, Any]:
        """Run a cell to its end; return the content of the `execute_reply`, as far as it is not the same for all."""
        parents.set_thread_parent(message.serial)
        try:
            self._run_code(message)
            expressions = message.user_expressions
            return {
                "status": "ok",
                "user_expressions": self._shell.user_expressions(expressions) if expressions else {},
            }
        except BaseException as exc:  # noqa: BLE001 - user code: whatever it raises is the cell's error
            error = {"ename": type(exc).__name__, "evalue": text_of(exc), "traceback": self._traceback(exc)}
            self._shell.outlet.publish("error", error)
            return {"status": "error", **error}

    def _run_code(self, message: ExecuteBeside) -> None:
        shell = self._shell
        source = shell.transform_fully(message.code)
        name = shell.compile.cache(source, message.execution_count, raw_code=message.code)
        flags = shell.compile.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile(source, name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        nodes = shell.transform_ast(tree).body
        if not nodes:
            return
        plain, shown = split_for_display(nodes, "none" if message.silent else shell.ast_node_interactivity)
        if shell.displayhook.semicolon_at_end_of_expression(source):
            plain, shown = [*plain, *shown], []
        steps: list[_Step] = []
        for number, node in enumerate([*plain, *shown]):
            is_shown = number >= len(plain) and isinstance(node, ast.Expr)
            if is_shown and isinstance(node, ast.Expr):
                code = compile(ast.Expression(node.value), name, "eval", flags, dont_inherit=True)
            else:
                code = compile(ast.Module([node], []), name, "exec", flags, dont_inherit=True)
            steps.append(_Step(code, is_shown, bool(code.co_flags & inspect.CO_COROUTINE)))
        if any(step.awaits for step in steps):
            self._run_on_loop(steps, message.execution_count)
            return
        for step in steps:
            self._finish(step, self._evaluate(step.code), message.execution_count)

    def _evaluate(self, code: CodeType) -> Any:
        return eval(code, self._shell.user_global_ns, self._shell.user_ns)  # noqa: S307 - that is what a kernel does

    def _finish(self, step: _Step, value: Any, count: int) -> None:
        if step.is_shown and value is not None:
            self._show(value, count)

    def _run_on_loop(self, steps: list[_Step], count: int) -> None:
        """Run a cell that awaits as a task on the one loop, and wait for it here."""
        outcome: concurrent.futures.Future[BaseException | None] = concurrent.futures.Future()
        context = contextvars.copy_context()

        async def run() -> None:
            try:
                for step in steps:
                    value = self._evaluate(step.code)
                    self._finish(step, await value if step.awaits else value, count)
            except BaseException as exc:  # noqa: BLE001 - handed to the thread: SystemExit would end the loop
                outcome.set_result(exc)
            else:
                outcome.set_result(None)

        def begin() -> None:
            # The loop keeps but a weak reference to it.
            self._tasks.add(task := self._coordinator.ensure_event_loop().create_task(run(), context=context))
            task.add_done_callback(self._tasks.discard)

        self._coordinator.call_from_thread(begin)
        error = outcome.result()
        if error is not None:
            raise error

    def _show(self, value: Any, count: int) -> None:
        data, metadata = self._shell.display_formatter.format(value)
        if data:
            # What has none, such as one with `_ipython_display_`, has shown itself.
            self._shell.outlet.publish("execute_result", {"execution_count": count, "data": data, "metadata": metadata})

    def _traceback(self, error: BaseException) -> list[str]:
        kind, traceback = type(error), of_user(error.__traceback__)
        error.__traceback__ = traceback
        strip_chain(error)
        try:
            if traceback is None and isinstance(error, SyntaxError):
                return list(copy.copy(self._shell.SyntaxTB).structured_traceback(kind, error, None))
            # A copy: it remembers the error that it formats.
            return list(copy.copy(self._shell.InteractiveTB).structured_traceback(kind, error, traceback, tb_offset=0))
        except Exception:  # noqa: BLE001 - formatting runs user code: the plain text is always there
            return [f"{kind.__name__}: {text_of(error)}"]
