"""Questions over deaths: of the worker that asks, of the front, at any moment; and cells that are run again."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from capsule_kernel import questions

from .exchange import DEADLINE_S
from .promised import command

if TYPE_CHECKING:
    from tests.kernel.client import Client
    from tests.kernel.promised import Kernels

_ROUNDS = 12
_SEED = 20261127


def kill_front(kernel: Client) -> None:
    os.kill(kernel.process.pid, signal.SIGKILL)
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    kernel.close()


def worker_of(kernel: Client) -> int:
    return int(kernel.evaluate("__import__('os').getpid()"))


def test_a_question_survives_its_worker_and_its_answer_is_kept(kernels: Kernels) -> None:
    kernel = kernels()
    worker = worker_of(kernel)
    cell = kernel.start("x = input('Name? ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    question = kernels.question(kernel)
    assert not question.is_left
    os.kill(worker, signal.SIGKILL)
    assert cell.ename == "WorkerDied"
    left = kernels.question(kernel)
    assert left.id == question.id
    assert left.is_left
    assert "nobody waits" in command(kernels, "inputs").stdout
    questions.answer(question.id, "kept", file=kernels.file)
    (promise,) = kernels.promises(kind="input")
    assert promise.value_data()["text"] == "kept"
    (ended,) = kernels.wait_for(kernel, 1, kind="exec", state="rejected")
    assert ended.value_data()["ename"] == "WorkerDied"
    assert kernel.evaluate("1 + 1") == "2"


def test_a_cell_that_is_run_again_receives_the_answer_that_came_meanwhile(kernels: Kernels) -> None:
    kernel = kernels("--CapsuleKernel.durable_input=True")
    worker = worker_of(kernel)
    code, same = "x = input('Go on? ')", {"capsule_execution_id": "nightly-3"}
    cell = kernel.start(code, metadata=same)
    question = kernels.question(kernel)
    assert question.id == "nightly-3:input:1"
    os.kill(worker, signal.SIGKILL)
    assert cell.ename == "WorkerDied"
    questions.answer(question.id, "yes", file=kernels.file)
    kernel.start(code, metadata=same).wait()
    assert kernel.evaluate("x") == "'yes'"


def test_a_cell_that_is_run_again_waits_for_the_same_question(kernels: Kernels) -> None:
    first = kernels("--CapsuleKernel.durable_input=True")
    code, same = "x = input('Go on? ')", {"capsule_execution_id": "nightly-3"}
    cell = first.start(code, metadata=same)
    question = kernels.question(first)
    kill_front(first)
    cell.ignore_outputs()
    second = kernels("--CapsuleKernel.durable_input=True")
    again = second.start(code, metadata=same)
    questions.answer(question.id, "yes", file=kernels.file)
    again.wait()
    assert second.evaluate("x") == "'yes'"
    assert [promise.id for promise in kernels.promises(kind="input")] == [question.id]


def test_what_was_canceled_or_asks_something_else_is_asked_anew(kernels: Kernels) -> None:
    kernel = kernels("--CapsuleKernel.durable_input=True")
    same = {"capsule_execution_id": "nightly-3"}
    canceled = kernel.start("input('Go on? ')", metadata=same)
    kernels.question(kernel)
    kernel.interrupt()
    assert canceled.ename == "KeyboardInterrupt"
    for prompt, number in (("Go on? ", 1001), ("Really? ", 2001)):
        cell = kernel.start(f"x = input({prompt!r})", metadata=same)
        question = kernels.question(kernel)
        assert question.id == f"nightly-3:input:{number}"
        questions.answer(question.id, prompt.upper(), file=kernels.file)
        cell.wait()
        assert kernel.evaluate("x") == repr(prompt.upper())


def test_a_password_is_asked_again_when_its_cell_is_run_again(kernels: Kernels) -> None:
    kernel = kernels("--CapsuleKernel.durable_input=True")
    code, same = "import getpass; word = getpass.getpass('Word: ')", {"capsule_execution_id": "nightly-3"}
    for number in (1, 1001):
        cell = kernel.start(code, metadata=same)
        question = kernels.question(kernel)
        assert question.id == f"nightly-3:input:{number}"
        answered = command(kernels, "answer", question.id, text=f"sesame-{number}\n")
        assert answered.returncode == 0, answered.stderr
        cell.wait()
        assert kernel.evaluate("word") == f"'sesame-{number}'"


@pytest.mark.slow
def test_kernels_killed_at_random_moments_lose_no_answer_and_leave_nothing_pending(kernels: Kernels) -> None:
    chance = random.Random(_SEED)
    accepted: dict[str, str] = {}
    for round_ in range(_ROUNDS):
        kernel = kernels("--CapsuleKernel.durable_input=True")
        cells = [kernel.start(f"x{number} = 1") for number in range(3)]
        asking = kernel.start("while True: answer = input('More? ')")
        given = len(accepted) + chance.randrange(0, 5)
        deadline = time.monotonic() + DEADLINE_S
        while len(accepted) < given:
            assert time.monotonic() < deadline, kernel.process.log()
            for question in questions.pending(file=kernels.file) if Path(kernels.file).exists() else []:
                if not question.is_left:
                    questions.answer(question.id, f"round {round_}", file=kernels.file)
                    accepted[question.id] = f"round {round_}"
            kernel.pass_time(0.005)
        kernel.pass_time(chance.uniform(0, 0.1))
        kill_front(kernel)
        for cell in (*cells, asking):
            cell.ignore_outputs()
    last = kernels()
    last.run("y = 1")
    kernels.wait_for(last, 1, kind="exec", state="resolved")
    last.shutdown()
    last.process.wait_exit()
    last.process.wait_gone()
    last.close()
    assert len(accepted) > _ROUNDS
    found = {promise.id: promise for promise in kernels.promises(kind="input")}
    assert {name: found[name].value_data()["text"] for name in accepted} == accepted
    left = [promise for promise in kernels.promises(kind="exec") if promise.state != "resolved"]
    assert all(promise.value_data()["status"] == "interrupted" for promise in left), left
