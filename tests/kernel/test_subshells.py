"""Subshells (JEP 91): cells beside the main shell's, each with its own queue, abort scope and output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .debug_session import DebugSession
from .exchange import plain
from .starter import only_capsule

if TYPE_CHECKING:
    from .client import Client

BLOCK = "import threading\ngate = threading.Event()\nprint('waiting')\nassert gate.wait(20)\nprint('let go')"
"""Keeps the main shell busy until somebody sets `gate`."""


def create(kernel: Client) -> str:
    return str(kernel.ask("create_subshell_request", channel="control")["subshell_id"])


def listed(kernel: Client) -> list[str]:
    return list(kernel.ask("list_subshell_request", channel="control")["subshell_id"])


@pytest.fixture
def subshell(shared_kernel: Client) -> str:
    return create(shared_kernel)


def test_subshells_are_created_listed_and_deleted(kernel: Client) -> None:
    assert listed(kernel) == []
    names = [create(kernel), create(kernel)]
    assert sorted(listed(kernel)) == sorted(names)
    kernel.ask("delete_subshell_request", {"subshell_id": names[0]}, channel="control")
    assert listed(kernel) == [names[1]]


def test_one_that_is_not_there_cannot_be_deleted(shared_kernel: Client) -> None:
    exchange = shared_kernel.request("delete_subshell_request", {"subshell_id": "none"}, channel="control").wait()
    assert exchange.content["status"] == "error"
    assert "'none'" in exchange.content["evalue"]


@pytest.mark.parametrize("kind", ["execute_request", "kernel_info_request", "complete_request", "comm_info_request"])
def test_a_request_to_one_that_is_not_there_is_answered_with_an_error(kind: str, shared_kernel: Client) -> None:
    content = {"code": "1", "cursor_pos": 1}
    exchange = shared_kernel.request(kind, content, subshell="none").wait()
    assert exchange.content["status"] == "error"
    assert exchange.content["ename"] == "UnknownSubshellError"
    assert "'none'" in exchange.content["evalue"]


@only_capsule("ipykernel sends a comm_reply, which the protocol does not have")
def test_a_comm_message_to_one_that_is_not_there_has_its_bracket(shared_kernel: Client) -> None:
    content = {"comm_id": "x", "data": {}}
    shared_kernel.request("comm_msg", content, subshell="none", expects_reply=False).wait()


def test_a_cell_runs_while_the_main_shell_is_busy_and_shares_its_names(shared_kernel: Client, subshell: str) -> None:
    shared_kernel.run("a = 5")
    main = shared_kernel.start(BLOCK)
    main.wait_stream("waiting")
    cell = shared_kernel.run("b = a + 1\nprint('from the subshell')\nb", subshell=subshell)
    assert cell.stdout == "from the subshell\n"
    assert cell.text == "6"
    assert not main.is_done
    shared_kernel.run("gate.set()", subshell=subshell)
    assert main.succeeded().stdout == "waiting\nlet go\n"
    assert shared_kernel.evaluate("b") == "6"


def test_outputs_of_concurrent_shells_go_to_their_own_cells(kernel: Client) -> None:
    names = [create(kernel) for _ in range(3)]
    kernel.run(
        "import sys\n"
        "def tell(name):\n"
        "    for n in range(200):\n"
        "        print(name, n)\n"
        "        if n % 50 == 0:\n"
        "            display(name); print(name, file=sys.stderr)"
    )
    code = "tell({0!r})"
    main = kernel.start(code.format("main"))
    cells = {name: kernel.start(code.format(name), subshell=name) for name in names}
    for name, cell in {"main": main, **cells}.items():
        cell.succeeded()
        assert cell.stdout.splitlines() == [f"{name} {n}" for n in range(200)]
        assert cell.stderr.splitlines() == [name] * 4
        assert [shown["data"]["text/plain"] for shown in cell.displays] == [repr(name)] * 4


def test_a_thread_of_a_subshell_s_cell_belongs_to_it(shared_kernel: Client, subshell: str) -> None:
    cell = shared_kernel.run(
        "import threading\nt = threading.Thread(target=lambda: print('in a thread'))\nt.start()\nt.join()",
        subshell=subshell,
    )
    assert cell.stdout == "in a thread\n"


def test_cells_of_one_subshell_run_one_after_the_other(shared_kernel: Client, subshell: str) -> None:
    shared_kernel.run("order = []")
    cells = [shared_kernel.start(f"order.append({n}); last = {n}", subshell=subshell) for n in range(10)]
    for cell in cells:
        cell.succeeded()
    assert shared_kernel.evaluate("order") == repr(list(range(10)))
    assert [cell.execution_count for cell in cells] == list(range(1, 11))


def test_an_error_aborts_what_waits_in_its_own_subshell_only(shared_kernel: Client, subshell: str) -> None:
    other = create(shared_kernel)
    main = shared_kernel.start(BLOCK)
    main.wait_stream("waiting")
    queued = shared_kernel.start("'main goes on'")
    failing = shared_kernel.start("step = threading.Event()\nassert step.wait(20)\n1 / 0", subshell=subshell)
    behind = shared_kernel.start("'never'", subshell=subshell)
    shared_kernel.run("step.set()", subshell=other)
    assert failing.wait().ename == "ZeroDivisionError"
    assert behind.wait().status == "aborted"
    assert shared_kernel.run("1 + 1", subshell=subshell).text == "2"
    shared_kernel.run("gate.set()", subshell=other)
    main.succeeded().claim("stream")
    assert queued.text == "'main goes on'"


def test_an_error_of_the_main_shell_aborts_nothing_in_a_subshell(shared_kernel: Client, subshell: str) -> None:
    running = shared_kernel.start(BLOCK, subshell=subshell)
    running.wait_stream("waiting")
    behind = shared_kernel.start("'ran'", subshell=subshell)
    assert shared_kernel.execute("1 / 0").ename == "ZeroDivisionError"
    shared_kernel.run("gate.set()")
    running.succeeded().claim("stream")
    assert behind.text == "'ran'"


def test_a_traceback_names_the_cell_and_its_line(shared_kernel: Client, subshell: str) -> None:
    cell = shared_kernel.execute("def fail():\n    1 / 0\nfail()", subshell=subshell)
    assert "Cell In[1], line 3" in cell.traceback
    assert "Cell In[1], line 2, in fail()" in cell.traceback
    assert "capsule_kernel" not in cell.traceback
    broken = shared_kernel.execute("x = (", subshell=subshell)
    assert broken.ename in {"SyntaxError", "_IncompleteInputError"}


def test_ipython_s_syntax_works(shared_kernel: Client, subshell: str) -> None:
    cell = shared_kernel.run("%time x = 3\n!echo from a child\nx;", subshell=subshell)
    assert "from a child" in cell.stdout
    assert "time" in cell.stdout


@only_capsule("ipykernel counts together")
def test_the_main_shell_s_history_and_results_are_its_own(kernel: Client) -> None:
    name = create(kernel)
    assert kernel.run("'main'").text == "'main'"
    assert kernel.run("'beside'", subshell=name).text == "'beside'"
    assert kernel.run("_, Out, In[-1]").text == "('main', {1: 'main'}, '_, Out, In[-1]')"


def test_what_awaits_runs_on_the_one_loop(shared_kernel: Client, subshell: str) -> None:
    shared_kernel.run("import asyncio\nmain_loop = asyncio.get_event_loop()")
    cell = shared_kernel.run(
        "async def f():\n    await asyncio.sleep(0)\n    print('inside')\n    return asyncio.get_running_loop()\n"
        "(await f()) is main_loop",
        subshell=subshell,
    )
    assert cell.stdout == "inside\n"
    assert cell.text == "True"


def test_they_await_beside_each_other(shared_kernel: Client, subshell: str) -> None:
    main = shared_kernel.start("import asyncio\nbell = asyncio.Event()\nprint('awaits')\nawait bell.wait()\n'rung'")
    main.wait_stream("awaits")
    shared_kernel.run("await asyncio.sleep(0)\nbell.set()", subshell=subshell)
    assert main.text == "'rung'"


def test_user_expressions_and_silence(shared_kernel: Client, subshell: str) -> None:
    cell = shared_kernel.run(
        "hidden = 4\nhidden", silent=True, user_expressions={"twice": "hidden * 2"}, subshell=subshell
    )
    assert cell.content["user_expressions"]["twice"]["data"] == {"text/plain": "8"}
    assert shared_kernel.run("1", subshell=subshell).execution_count == 1
    shared_kernel.drain()
    for each in list(shared_kernel.exchanges.values()):
        each.ignore_outputs()


def test_input_asks_the_client_of_the_subshell_s_cell(shared_kernel: Client, subshell: str) -> None:
    cell = shared_kernel.start("name = input('who? ')\nname", allow_stdin=True, subshell=subshell)
    request = shared_kernel.wait_input_request(cell)
    assert request.content["prompt"] == "who? "
    shared_kernel.answer(request, "me")
    assert cell.succeeded().text == "'me'"
    refused = shared_kernel.execute("input()", allow_stdin=False, subshell=subshell)
    assert refused.ename == "StdinNotImplementedError"


def test_an_interrupt_is_for_the_main_shell(shared_kernel: Client, subshell: str) -> None:
    beside = shared_kernel.start(BLOCK, subshell=subshell)
    beside.wait_stream("waiting")
    main = shared_kernel.start("print('loops')\nwhile True: pass")
    main.wait_stream("loops")
    shared_kernel.interrupt()
    assert main.wait().ename == "KeyboardInterrupt"
    assert not beside.is_done
    shared_kernel.run("gate.set()")
    assert beside.succeeded().stdout == "waiting\nlet go\n"


def test_what_is_not_for_the_interpreter_is_answered_there_too(shared_kernel: Client, subshell: str) -> None:
    assert shared_kernel.request("kernel_info_request", {}, subshell=subshell).wait().status == "ok"
    content = {"code": "impor", "cursor_pos": 5}
    assert "import" in shared_kernel.request("complete_request", content, subshell=subshell).wait().content["matches"]


def test_the_parent_is_the_subshell_s_request(shared_kernel: Client, subshell: str) -> None:
    cell = shared_kernel.run("get_ipython().kernel.get_parent()['header']['subshell_id']", subshell=subshell)
    assert cell.text == repr(subshell)


def test_the_magic_tells(shared_kernel: Client, subshell: str) -> None:
    told = shared_kernel.run("%subshell", subshell=subshell).stdout
    assert f"subshell id: {subshell}\n" in told
    assert "subshell id: None\n" in shared_kernel.run("%subshell").stdout


def test_deleting_one_that_is_busy_aborts_what_waits_and_lets_its_cell_end(kernel: Client) -> None:
    name = create(kernel)
    running = kernel.start(BLOCK, subshell=name)
    running.wait_stream("waiting")
    behind = kernel.start("'never'", subshell=name)
    if not kernel.process_is_ipykernel():
        kernel.ask("delete_subshell_request", {"subshell_id": name}, channel="control")
        assert behind.wait().status == "aborted"
        assert listed(kernel) == []
    kernel.run("gate.set()")
    running.succeeded().claim("stream")


@only_capsule("ipykernel dies with its cell")
def test_a_death_ends_the_cells_of_all_shells_and_the_subshells_stay(kernel: Client) -> None:
    name = create(kernel)
    beside = kernel.start(BLOCK, subshell=name)
    beside.wait_stream("waiting")
    main = kernel.execute("import os; os._exit(4)")
    assert main.ename == "WorkerDied"
    assert beside.wait().ename == "WorkerDied"
    beside.claim("stream")
    assert "exit status 4" in plain(beside.error["evalue"])
    assert kernel.run("6 * 7", subshell=name).text == "42"


OPEN = """\
import comm
heard = []
def opened(c, message):
    c.on_msg(lambda message: (heard.append(message["content"]["data"]), c.send({"echo": message["content"]["data"]})))
comm.get_comm_manager().register_target("echo", opened)"""


def comm_message(kernel: Client, kind: str, subshell: str, **content: Any) -> Any:
    return kernel.request(kind, {"comm_id": "c1", "data": {}, **content}, subshell=subshell, expects_reply=False)


@only_capsule("its comms' handlers are serialised on the main loop")
def test_comm_messages_over_a_subshell_are_handled_while_the_main_shell_awaits(kernel: Client) -> None:
    # As JupyterLab does: a subshell for each target, whatever the main shell does.
    kernel.run(OPEN)
    name = create(kernel)
    main = kernel.start(
        "import asyncio, threading\nthreads = set()\nprint('awaits')\n"
        "while len(heard) < 3: await asyncio.sleep(0)\nheard"
    )
    main.wait_stream("awaits")
    behind = kernel.start("'later'")
    comm_message(kernel, "comm_open", name, target_name="echo").wait()
    for n in range(3):
        exchange = comm_message(kernel, "comm_msg", name, data={"n": n}).wait()
        (echo,) = exchange.claim("comm_msg")
        assert echo.content["data"] == {"echo": {"n": n}}
    assert main.text == "[{'n': 0}, {'n': 1}, {'n': 2}]"
    assert behind.text == "'later'"


@only_capsule("ipykernel has threads for idle subshells")
def test_subshells_that_do_nothing_have_no_threads(kernel: Client) -> None:
    before = kernel.evaluate("__import__('threading').active_count()")
    names = [create(kernel) for _ in range(20)]
    kernel.run("import threading\nmine = threading.current_thread()", subshell=names[0])
    kernel.run("mine.join()")
    assert kernel.evaluate("__import__('threading').active_count()") == before


@only_capsule("its comms' handlers say whether they may run beside a cell")
def test_a_handler_that_asked_for_it_hears_over_a_subshell_while_the_main_shell_is_blocked(kernel: Client) -> None:
    kernel.run(
        "import comm, threading\ngate = threading.Event()\n"
        "def opened(c, message):\n"
        "    c.on_msg(lambda message: gate.set(), while_blocked=True)\n"
        "comm.get_comm_manager().register_target('gate', opened)"
    )
    name = create(kernel)
    comm_message(kernel, "comm_open", name, target_name="gate").wait()
    main = kernel.start("print('waits')\ngate.wait(20)")
    main.wait_stream("waits")
    comm_message(kernel, "comm_msg", name).wait()
    assert main.text == "True"


def test_the_kernel_ends_while_a_subshell_is_busy(kernel: Client) -> None:
    name = create(kernel)
    running = kernel.start(BLOCK.replace("gate.wait(20)", "gate.wait(600)"), subshell=name)
    running.wait_stream("waiting")
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()
    kernel.abandon()


@only_capsule("ipykernel's subshells have a stack of their own kind")
def test_a_request_that_cannot_be_handed_over_is_refused_and_the_subshell_goes_on(kernel: Client) -> None:
    name = create(kernel)
    bad = {"code": "1", "user_expressions": {"a": 2**70}}
    refused = kernel.request("execute_request", bad, subshell=name).wait()
    assert refused.content["ename"] == "InvalidRequest"
    assert kernel.start("6 * 7", subshell=name).wait().text == "42"


def test_a_breakpoint_stops_a_subshell_s_cell(kernel: Client) -> None:
    name = create(kernel)
    session = DebugSession(kernel).start()
    code = "inside = 1\nbeyond = inside + 1"
    session.break_at(code, 2)
    cell = kernel.start(code, subshell=name)
    thread = session.wait_stopped()
    assert session.where(thread) == [("<module>", 2)]
    session.go_on(thread)
    cell.succeeded()
    ended = {"reason": "exited", "threadId": thread}
    # Its cell's thread: the event may come after all answers.
    kernel.wait_until(lambda: any(each.content.get("body") == ended for each in session.events()), "the thread's end")
