"""Executions and questions are promises: what is recorded, and answers from elsewhere."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from capsule_kernel import questions
from capsule_kernel.errors import PromiseNotFound, QuestionClosed

from .exchange import DEADLINE_S
from .promised import command

if TYPE_CHECKING:
    from tests.kernel.client import Client
    from tests.kernel.promised import Kernels
    from tests.kernel.starter import KernelStarter


# --- executions ------------------------------------------------------------------------------------------------------


def test_executions_are_recorded_with_how_they_ended(kernels: Kernels) -> None:
    kernel = kernels()
    kernel.run("x = 1")
    kernel.execute("1/0").claim("error")
    kernel.run("hidden = 1", store_history=False)
    kernel.run("quiet = 1", silent=True)
    found = kernels.wait_for(kernel, 2, prefix="exec:", kind="exec")
    deadline = time.monotonic() + DEADLINE_S
    while any(promise.is_pending for promise in kernels.promises(prefix="exec:")):
        assert time.monotonic() < deadline
        kernel.pass_time(0.02)
    found = kernels.promises(prefix="exec:")
    assert [(promise.state, promise.value_data()["status"]) for promise in found] == [
        ("resolved", "ok"),
        ("rejected", "error"),
    ]
    assert found[0].param_data()["execution_count"] == 1
    assert "x = 1" not in found[0].param


def imported(kernel: Client) -> set[str]:
    """What the kernel's processes imported, by `-X importtime`; workers write to their cells' streams too."""
    kernel.forget()
    text = (kernel.process.directory / "stderr.txt").read_text(encoding="utf-8", errors="replace")
    return set(re.findall(r"\| +([\w.]+)$", text, re.MULTILINE))


def test_neither_resonate_nor_aiohttp_is_imported(kernels: Kernels) -> None:
    kernel = kernels(env={"PYTHONPROFILEIMPORTTIME": "1"})
    kernel.start("x = 1").wait()
    kernels.wait_for(kernel, 1, kind="exec", state="resolved")
    found = imported(kernel)
    assert "capsule_kernel.promises.embedded" in found
    assert not {"resonate", "resonate.resonate", "aiohttp"} & found


def test_a_start_loads_no_openssl(kernels: Kernels) -> None:
    kernel = kernels()
    # In a worker all is as it is everywhere.
    kernel.start("import asyncio, sys; assert asyncio.sslproto is asyncio.base_events.sslproto; import ssl").wait()
    kernel.start("assert asyncio.base_events.ssl is ssl is sys.modules['ssl']").wait()
    libraries = Path(f"/proc/{kernel.process.pid}/maps").read_text()
    assert "zmq" in libraries
    assert "libssl" not in libraries


def test_promises_are_not_opened_before_a_cell_is_to_be_recorded(kernels: Kernels) -> None:
    kernel = kernels(env={"PYTHONPROFILEIMPORTTIME": "1"})
    kernel.start("x = 1", store_history=False).wait()
    found = imported(kernel)
    assert "capsule_kernel.front.bridge" in found
    assert not {name for name in found if name.startswith("capsule_kernel.promises")}
    assert not Path(kernels.file).exists()


def test_executions_of_subshells_are_recorded_beside_the_main_ones(kernels: Kernels) -> None:
    kernel = kernels()
    name = str(kernel.ask("create_subshell_request", channel="control")["subshell_id"])
    cell = kernel.start("x = input('Main? ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    main = kernels.question(kernel)
    beside = kernel.start("y = input('Beside? ')", allow_stdin=True, subshell=name)
    kernel.wait_input_request(beside)
    kernels.wait_for(kernel, 2, state="pending", kind="exec")
    (other,) = [question for question in questions.pending(file=kernels.file) if question.id != main.id]
    questions.answer(other.id, "2", file=kernels.file)
    beside.wait()
    questions.answer(main.id, "1", file=kernels.file)
    cell.wait()
    assert kernel.evaluate("x, y") == "('1', '2')"
    ended = kernels.wait_for(kernel, 2, state="resolved", kind="exec")
    assert [promise.id for promise in ended] == [f"exec:{each.id.partition(':')[0]}" for each in (main, other)]


def test_what_a_killed_kernel_left_pending_is_settled_as_interrupted(kernels: Kernels) -> None:
    first = kernels()
    first.run("x = 1")
    cell = first.start("import time; time.sleep(60)")
    kernels.wait_for(first, 1, kind="exec", state="pending")
    kernels.wait_for(first, 1, kind="exec", state="resolved")
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait_exit()
    first.process.wait_gone()
    cell.ignore_outputs()
    first.close()
    second = kernels()
    second.run("y = 1")
    (left,) = kernels.wait_for(second, 1, kind="exec", state="rejected")
    assert left.value_data()["status"] == "interrupted"


def test_a_shutdown_settles_the_running_cell_as_interrupted(kernels: Kernels) -> None:
    kernel = kernels()
    kernel.run("x = 1")
    cell = kernel.start("import time; time.sleep(60)")
    kernel.wait_until(lambda: cell.busy is not None, "busy")
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    cell.ignore_outputs()
    kernel.close()
    states = [promise.value_data()["status"] for promise in kernels.promises(kind="exec")]
    assert states == ["ok", "interrupted"]


def test_with_durability_off_there_is_no_file(kernels: Kernels) -> None:
    kernel = kernels("--CapsuleKernel.durability=off")
    cell = kernel.start("x = input('Name? ')", allow_stdin=True)
    kernel.answer(kernel.wait_input_request(cell), "Ada")
    cell.wait()
    assert kernel.evaluate("x") == "'Ada'"
    assert not Path(kernels.file).exists()


# --- questions -------------------------------------------------------------------------------------------------------


def test_the_front_ends_answer_settles_the_promise(kernels: Kernels) -> None:
    kernel = kernels()
    cell = kernel.start("x = input('Name? ')", allow_stdin=True)
    request = kernel.wait_input_request(cell)
    question = kernels.question(kernel)
    assert (question.prompt, question.password) == ("Name? ", False)
    kernel.answer(request, "Ada")
    cell.wait()
    assert kernel.evaluate("x") == "'Ada'"
    (promise,) = kernels.promises(kind="input")
    assert promise.value_data() == {"v": 1, "by": "front end", "text": "Ada"}
    with pytest.raises(QuestionClosed, match="answered by the front end"):
        questions.answer(question.id, "Bob", file=kernels.file)


def test_the_command_answers_and_the_late_front_end_is_told(kernels: Kernels) -> None:
    kernel = kernels()
    cell = kernel.start("x = input('Name? ')", allow_stdin=True)
    request = kernel.wait_input_request(cell)
    question = kernels.question(kernel)
    listed = command(kernels, "inputs")
    assert question.id in listed.stdout
    assert "Name?" in listed.stdout
    assert json.loads(command(kernels, "inputs", "--json").stdout)[0]["id"] == question.id
    answered = command(kernels, "answer", question.id, "Grace")
    assert answered.returncode == 0, answered.stderr
    cell.wait()
    assert kernel.evaluate("x") == "'Grace'"
    kernel.answer(request, "too late")
    kernel.wait_until(lambda: bool(cell.late), "a word about the late answer")
    assert "came late" in cell.late[0].content["text"]
    cell.ignore_outputs()
    assert kernel.evaluate("x") == "'Grace'"
    again = command(kernels, "answer", question.id, "Bob")
    assert again.returncode == 1
    assert "answered by the command" in again.stderr


def test_a_late_answer_is_not_taken_for_the_next_questions(kernels: Kernels) -> None:
    kernel = kernels()
    cell = kernel.start("x = input('one'); y = input('two')", allow_stdin=True)
    first = kernel.wait_input_request(cell)
    questions.answer(kernels.question(kernel).id, "1", file=kernels.file)
    second = kernel.wait_input_request(cell)
    kernel.answer(first, "stale")
    kernel.answer(second, "2")
    cell.wait()
    assert "came late" in cell.stderr
    assert kernel.evaluate("x, y") == "('1', '2')"


def test_a_refused_question_is_the_end_of_input(kernels: Kernels) -> None:
    kernel = kernels()
    cell = kernel.start("input('Sure? ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    assert command(kernels, "answer", kernels.question(kernel).id, "--refuse").returncode == 0
    assert cell.ename == "EOFError"


def test_an_interrupt_cancels_the_question(kernels: Kernels) -> None:
    kernel = kernels()
    cell = kernel.start("input('Sure? ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    question = kernels.question(kernel)
    kernel.interrupt()
    assert cell.ename == "KeyboardInterrupt"
    kernels.wait_for(kernel, 1, kind="input", state="rejected_canceled")
    with pytest.raises(QuestionClosed, match="nobody waits"):
        questions.answer(question.id, "yes", file=kernels.file)


def test_a_question_is_over_after_its_time(kernels: Kernels) -> None:
    kernel = kernels("--CapsuleKernel.input_timeout_ms=200")
    cell = kernel.start("input('Quick! ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    assert cell.ename == "TimeoutError"
    (promise,) = kernels.promises(kind="input")
    with pytest.raises(QuestionClosed, match="its time is over"):
        questions.answer(promise.id, "late", file=kernels.file)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"Grace", "Grace"),
        (b'"Grace"', "Grace"),
        (b'{"text": "Grace"}', "Grace"),
        (b"", ""),
        (b"\xff\xfe", None),
        (b"x" * (2 << 20), "x" * (1 << 20)),
    ],
)
def test_an_answer_of_whatever_form_is_taken(kernels: Kernels, data: bytes, text: str | None) -> None:
    kernel = kernels()
    cell = kernel.start("x = input('Name? ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    kernels.settle(kernels.question(kernel).id, "resolved", data)
    cell.wait()
    if text is not None:
        assert kernel.evaluate(f"len(x) == {len(text)} and x[:9]") == repr(text[:9])


def test_nothing_that_came_with_a_rejection_is_unpickled(kernels: Kernels, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    kernel = kernels()
    cell = kernel.start("x = input('Name? ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    pickled = base64.b64encode(pickle.dumps(Touch())).decode()
    data = json.dumps({"__type": "error", "message": "no", "__py_pickle": pickled}).encode()
    kernels.settle(kernels.question(kernel).id, "rejected", data)
    assert cell.ename == "EOFError"
    assert not (tmp_path / "executed").exists()


def test_a_shutdown_leaves_an_open_question_to_be_answered(kernels: Kernels) -> None:
    kernel = kernels()
    cell = kernel.start("x = input('Name? ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    question = kernels.question(kernel)
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    cell.ignore_outputs()
    kernel.close()
    (left,) = questions.pending(file=kernels.file)
    assert (left.id, left.is_left) == (question.id, True)
    (ended,) = kernels.promises(kind="exec")
    assert ended.value_data()["status"] == "interrupted"
    questions.answer(question.id, "kept", file=kernels.file)


def test_where_the_client_cannot_be_asked_the_cell_waits_if_it_is_told_to(kernels: Kernels) -> None:
    plain = kernels()
    assert plain.execute("input()").ename == "StdinNotImplementedError"
    patient = kernels("--CapsuleKernel.durable_input=True")
    cell = patient.start("x = input('Go on? ')")
    questions.answer(kernels.question(patient).id, "yes", file=kernels.file)
    cell.wait()
    assert patient.evaluate("x") == "'yes'"


def test_an_unknown_question_is_named(kernels: Kernels) -> None:
    kernel = kernels()
    kernel.run("x = 1")
    kernels.wait_for(kernel, 1, kind="exec")
    with pytest.raises(PromiseNotFound, match="nothing-like-it"):
        questions.answer("nothing-like-it", "x", file=kernels.file)
    refused = command(kernels, "answer", "nothing-like-it", "x")
    assert refused.returncode == 1
    assert "nothing-like-it" in refused.stderr


def test_a_question_outlives_its_front_and_stays_answerable(kernels: Kernels) -> None:
    first = kernels()
    cell = first.start("x = input('Name? ')", allow_stdin=True)
    first.wait_input_request(cell)
    question = kernels.question(first)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait_exit()
    first.process.wait_gone()
    cell.ignore_outputs()
    first.close()
    second = kernels()
    second.run("y = 1")
    kernels.wait_for(second, 1, kind="exec", state="rejected")
    questions.answer(question.id, "kept", file=kernels.file)
    (promise,) = kernels.promises(kind="input")
    assert promise.value_data()["text"] == "kept"


def test_a_password_from_elsewhere_reaches_the_cell_and_no_disk(kernels: Kernels, tmp_path: Path) -> None:
    kernel = kernels()
    cell = kernel.start("import getpass; word = getpass.getpass('Word: ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    question = kernels.question(kernel)
    assert question.password
    refused = command(kernels, "answer", question.id, "open-sesame-17")
    assert refused.returncode == 2
    answered = command(kernels, "answer", question.id, text="open-sesame-17\n")
    assert answered.returncode == 0, answered.stderr
    cell.wait()
    assert kernel.evaluate("word") == "'open-sesame-17'"
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    kernel.close()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"open-sesame-17" not in path.read_bytes(), path


def test_a_password_of_the_front_end_is_not_recorded(kernels: Kernels, tmp_path: Path) -> None:
    kernel = kernels()
    cell = kernel.start("import getpass; word = getpass.getpass('Word: ')", allow_stdin=True)
    kernel.answer(kernel.wait_input_request(cell), "open-sesame-18")
    cell.wait()
    (promise,) = kernels.promises(kind="input")
    assert promise.value_data() == {"v": 1, "by": "front end", "taken": True}
    for path in tmp_path.rglob("promises*"):
        assert path.is_dir() or b"open-sesame-18" not in path.read_bytes(), path


def test_a_password_is_asked_for_where_its_socket_cannot_be(kernels: Kernels, tmp_path: Path) -> None:
    """A path of more than 107 bytes is none for a socket (unix(7)): the front end can still answer."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    kernel = kernels(env={"TMPDIR": str(folder)})
    cell = kernel.start("import getpass; word = getpass.getpass('Word: ')", allow_stdin=True)
    kernel.answer(kernel.wait_input_request(cell), "open-sesame-19")
    cell.wait()
    assert kernel.evaluate("word") == "'open-sesame-19'"
    assert kernels.promises(kind="input") == []
    assert [path.name for path in folder.iterdir() if path.name.startswith("capsule-input-")] == []


def test_a_password_that_a_dead_worker_asked_for_is_canceled(kernels: Kernels) -> None:
    kernel = kernels()
    kernel.run("import os; pid = os.getpid()")
    pid = int(kernel.evaluate("pid"))
    cell = kernel.start("import getpass; word = getpass.getpass('Word: ')", allow_stdin=True)
    kernel.wait_input_request(cell)
    question = kernels.question(kernel)
    os.kill(pid, signal.SIGKILL)
    cell.wait()
    cell.claim("error")
    (promise,) = kernels.wait_for(kernel, 1, kind="input", state="rejected_canceled")
    assert promise.id == question.id
    with pytest.raises(QuestionClosed):
        questions.answer(question.id, "nobody hears this", file=kernels.file)


def test_a_file_that_cannot_be_used_costs_no_cell(start_kernel: KernelStarter, tmp_path: Path) -> None:
    place = tmp_path / "folder"
    place.mkdir()
    kernel = start_kernel(f"--CapsuleKernel.promises_file={place}")
    kernel.run("x = 1")
    cell = kernel.start("y = input()", allow_stdin=True)
    kernel.answer(kernel.wait_input_request(cell), "still here")
    cell.wait()
    assert kernel.evaluate("y") == "'still here'"
