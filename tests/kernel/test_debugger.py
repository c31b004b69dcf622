"""The debugger, as JupyterLab and VS Code use it. Source: Jupyter messaging, "Debug request"."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .debug_session import DebugSession
from .starter import only_capsule
from .test_snapshots import run_and_wait_for_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .client import Client
    from .starter import KernelStarter

FUNCTION = "def double(value):\n    result = value * 2\n    return result\nanswer = double(21)\nprint(answer)"


@pytest.fixture
def session(kernel: Client) -> Iterator[DebugSession]:
    session = DebugSession(kernel).start()
    yield session
    session.events()


@pytest.fixture
def shared_session(shared_kernel: Client) -> Iterator[DebugSession]:
    session = DebugSession(shared_kernel)
    if not session.ask("debugInfo")["isStarted"]:
        session.start()
    yield session
    session.events()


def test_a_breakpoint_stops_shows_variables_and_goes_on(session: DebugSession) -> None:
    session.break_at(FUNCTION, 2)
    cell = session.client.start(FUNCTION)
    thread = session.wait_stopped()
    assert session.where(thread) == [("double", 2), ("<module>", 4)]
    assert session.local_values(thread) == {"value": "21"}
    session.go_on(thread)
    assert cell.succeeded().stdout == "42\n"


def test_a_breakpoint_in_a_function_holds_for_the_cells_that_call_it(session: DebugSession) -> None:
    definition = "def triple(value):\n    return value * 3"
    path = session.break_at(definition, 2)
    session.client.run(definition)
    cell = session.client.start("x = 5\ntriple(x)")
    thread = session.wait_stopped()
    frames = session.frames(thread)
    assert [(frame["name"], frame["line"]) for frame in frames] == [("triple", 2), ("<module>", 2)]
    assert frames[0]["source"]["path"] == path
    assert session.ask("source", source={"path": path})["content"] == definition
    session.go_on(thread)
    assert cell.text == "15"


def test_stepping_over_into_and_out(session: DebugSession) -> None:
    session.break_at(FUNCTION, 4)
    cell = session.client.start(FUNCTION)
    thread = session.wait_stopped()
    assert session.where(thread) == [("<module>", 4)]
    session.ask("stepIn", threadId=thread)
    assert session.wait_stopped("step") == thread
    assert session.where(thread) == [("double", 2), ("<module>", 4)]
    session.ask("next", threadId=thread)
    session.wait_stopped("step")
    assert session.local_values(thread) == {"value": "21", "result": "42"}
    session.ask("stepOut", threadId=thread)
    session.wait_stopped("step")
    assert session.where(thread)[0][0] == "<module>"
    # Beyond the end of the cell is nothing of the user's: the cell ends.
    session.ask("next", threadId=thread)
    session.wait_stopped("step")
    assert session.where(thread) == [("<module>", 5)]
    session.go_on(thread, "next")
    assert cell.succeeded().stdout == "42\n"


def test_variables_can_be_displayed_evaluated_changed_and_copied(session: DebugSession) -> None:
    code = "def f():\n    inner = {'a': [1, 2]}\n    return inner\nout = f()"
    session.break_at(code, 3)
    cell = session.client.start(code)
    thread = session.wait_stopped()
    frame = session.frames(thread)[0]["id"]
    scope = session.ask("scopes", frameId=frame)["scopes"][0]["variablesReference"]
    (inner,) = session.ask("variables", variablesReference=scope)["variables"]
    children = session.ask("variables", variablesReference=inner["variablesReference"])["variables"]
    assert {"'a'"} <= {each["name"] for each in children}
    rich = session.ask("richInspectVariables", variableName="inner", frameId=frame)
    assert rich == {"data": {"text/plain": "{'a': [1, 2]}"}, "metadata": {}}
    assert session.ask("evaluate", expression="len(inner)", frameId=frame, context="repl")["result"] == "1"
    session.ask("copyToGlobals", srcVariableName="inner", dstVariableName="taken", srcFrameId=frame)
    refused = session.reply("copyToGlobals", srcVariableName="inner()", dstVariableName="x", srcFrameId=frame)
    assert refused["success"] is False
    session.go_on(thread)
    cell.succeeded()
    assert session.client.evaluate("taken is out") == "True"


def test_variables_are_shown_while_nothing_is_stopped_and_nothing_started(kernel: Client) -> None:
    session = DebugSession(kernel)
    kernel.run(
        "numbers = [1, 2]\n_hidden = 3\nclass Shown:\n    def _repr_html_(self): return '<b>x</b>'\nshown = Shown()"
    )
    shown = {each["name"]: each for each in session.ask("inspectVariables")["variables"]}
    assert shown["numbers"]["value"] == "[1, 2]"
    assert shown["numbers"]["type"] == "list"
    assert {"In", "Out", "get_ipython", "_i1", "exit"}.isdisjoint(shown)
    children = session.ask("variables", variablesReference=shown["numbers"]["variablesReference"])["variables"]
    assert [each["value"] for each in children if each["name"] in "01"] == ["1", "2"]
    rich = session.ask("richInspectVariables", variableName="shown")
    assert rich["data"]["text/html"] == "<b>x</b>"
    assert session.reply("variables", variablesReference=1)["success"] is False
    modules = session.ask("modules")
    assert any(each["name"] == "json" for each in modules["modules"])
    assert session.reply("stackTrace", threadId=1)["success"] is False
    assert session.ask("debugInfo")["isStarted"] is False


def test_debug_info_names_the_cells_files(kernel: Client) -> None:
    session = DebugSession(kernel)
    info = session.ask("debugInfo")
    assert info["hashMethod"] == "Murmur2"
    assert info["hashSeed"] == 3339675911
    assert info["tmpFileSuffix"] == ".py"
    path = session.ask("dumpCell", code="x = 1")["sourcePath"]
    assert path.startswith(info["tmpFilePrefix"])
    code = "import inspect; inspect.currentframe().f_code.co_filename"
    assert kernel.run(code).text == repr(session.ask("dumpCell", code=code)["sourcePath"])
    for name in ("richRendering", "copyToGlobals"):
        assert info[name] is True
    assert info["exceptionPaths"] == ["Python Exceptions"]


def test_an_exception_stops_where_it_is_raised(session: DebugSession) -> None:
    session.ask("setExceptionBreakpoints", filters=["raised"])
    cell = session.client.start("def fail(reason):\n    raise ValueError(reason)\nfail('no')")
    thread = session.wait_stopped("exception")
    assert session.where(thread)[0] == ("fail", 2)
    assert session.local_values(thread)["reason"] == "'no'"
    assert session.ask("exceptionInfo", threadId=thread)["exceptionId"] == "ValueError"
    session.ask("setExceptionBreakpoints", filters=[])
    session.go_on(thread)
    assert cell.wait().ename == "ValueError"


def test_a_condition_decides(session: DebugSession) -> None:
    code = "for n in range(5):\n    last = n"
    session.break_at(code, 2, condition="n == 3")
    cell = session.client.start(code)
    thread = session.wait_stopped()
    assert session.ask("evaluate", expression="n", frameId=session.frames(thread)[0]["id"])["result"] == "3"
    session.go_on(thread)
    cell.succeeded()


def test_a_cell_that_awaits_stops_too(session: DebugSession) -> None:
    code = "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x\ny = await f(1)"
    session.break_at(code, 4)
    cell = session.client.start(code)
    thread = session.wait_stopped()
    assert session.where(thread)[:2] == [("f", 4), ("<module>", 5)]
    session.go_on(thread)
    cell.succeeded()


def test_a_running_cell_can_be_paused(session: DebugSession) -> None:
    code = "import time\ngoes = True\nprint('runs')\nwhile goes:\n    time.sleep(0.01)"
    session.break_at(code)
    cell = session.client.start(code)
    cell.wait_stream("runs")
    (thread,) = session.ask("threads")["threads"]
    session.ask("pause", threadId=thread["id"])
    assert session.wait_stopped("pause") == thread["id"]
    frame = session.frames(thread["id"])[-1]
    assert frame["name"] == "<module>"
    session.ask("evaluate", expression="globals().update(goes=False)", frameId=frame["id"], context="repl")
    session.go_on(thread["id"])
    cell.succeeded()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("setBreakpoints", {"source": 1}),
        ("variables", {}),
        ("dumpCell", {}),
        ("source", {"source": {"path": "/nowhere"}}),
        ("richInspectVariables", {"variableName": "a b"}),
        ("unheardOf", {}),
    ],
)
def test_what_is_not_understood_is_answered(
    command: str, arguments: dict[str, Any], shared_session: DebugSession
) -> None:
    assert shared_session.reply(command, **arguments)["success"] is False


def test_empty_lines_before_the_code_are_counted(session: DebugSession) -> None:
    code = "\n\nx = 1\ny = 2"
    session.break_at(code, 4)
    cell = session.client.start(code)
    thread = session.wait_stopped()
    assert session.where(thread) == [("<module>", 4)]
    session.go_on(thread)
    cell.succeeded()


def test_breakpoint_in_the_code_stops(session: DebugSession) -> None:
    cell = session.client.start("a = 1\nbreakpoint()\nb = 2")
    thread = session.wait_stopped("breakpoint")
    assert session.where(thread)[0][0] == "<module>"
    session.go_on(thread)
    cell.succeeded()


def test_other_requests_are_answered_while_a_cell_is_stopped(session: DebugSession) -> None:
    session.break_at(FUNCTION, 2)
    cell = session.client.start(FUNCTION)
    thread = session.wait_stopped()
    assert session.client.ask("kernel_info_request", channel="control")["debugger"] is True
    assert "double" in session.client.ask("complete_request", {"code": "dou", "cursor_pos": 3})["matches"]
    session.go_on(thread)
    assert cell.succeeded().stdout == "42\n"


def test_after_disconnect_nothing_stops_and_it_can_be_started_again(session: DebugSession) -> None:
    session.break_at(FUNCTION, 2)
    cell = session.client.start(FUNCTION)
    session.wait_stopped()
    session.ask("disconnect", restart=False, terminateDebuggee=True)
    assert cell.succeeded().stdout == "42\n"
    info = session.ask("debugInfo")
    assert (info["isStarted"], info["breakpoints"], info["stoppedThreads"]) == (False, [], [])
    assert session.client.run(FUNCTION).stdout == "42\n"
    session.start()
    session.break_at(FUNCTION, 2)
    again = session.client.start(FUNCTION)
    session.go_on(session.wait_stopped())
    assert again.succeeded().stdout == "42\n"


@only_capsule("its worker is another process")
@pytest.mark.parametrize("end", ["death", "reset"])
def test_a_new_worker_has_the_breakpoints(end: str, session: DebugSession) -> None:
    path = session.break_at(FUNCTION, 2)
    if end == "death":
        assert session.client.execute("import os; os._exit(3)").ename == "WorkerDied"
    else:
        session.client.run("%reset --worker").ignore_outputs()
    cell = session.client.start(FUNCTION)
    thread = session.wait_stopped()
    info = session.ask("debugInfo")
    assert info["isStarted"] is True
    assert [(each["source"], each["breakpoints"][0]["line"]) for each in info["breakpoints"]] == [(path, 2)]
    assert session.where(thread)[0] == ("double", 2)
    session.go_on(thread)
    assert cell.succeeded().stdout == "42\n"


@only_capsule("it has snapshots")
@pytest.mark.parametrize("end", ["import os; os._exit(3)", "%undo"])
def test_a_snapshot_that_takes_over_has_the_breakpoints(end: str, start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--debug", "--CapsuleKernel.snapshots=4")
    session = DebugSession(kernel).start()
    definition = FUNCTION[: FUNCTION.index("answer")]
    session.break_at(definition, 2)
    # This one was forked from a worker that was being debugged.
    run_and_wait_for_snapshot(kernel, definition)
    run_and_wait_for_snapshot(kernel, "x = 1")
    kernel.execute(end).ignore_outputs()
    cell = kernel.start("double(3)")
    session.go_on(session.wait_stopped())
    assert cell.text == "6"
    session.ask("disconnect")
    run_and_wait_for_snapshot(kernel, "y = double(4)")
    # The first one that was heard of may have been that of an earlier cell.
    run_and_wait_for_snapshot(kernel, "z = 1")
    kernel.execute("os._exit(1)" if "os" in end else "import os; os._exit(1)").ignore_outputs()
    assert kernel.evaluate("y") == "8"


@only_capsule("ipykernel dies with its cell")
def test_a_death_while_stopped_is_told(session: DebugSession) -> None:
    pid = int(session.client.evaluate("__import__('os').getpid()"))
    session.break_at(FUNCTION, 2)
    cell = session.client.start(FUNCTION)
    session.wait_stopped()
    os.kill(pid, signal.SIGKILL)
    assert session.wait_event("continued").content["body"]["allThreadsContinued"] is True
    assert cell.wait().ename == "WorkerDied"
    again = session.client.start(FUNCTION)
    session.go_on(session.wait_stopped())
    assert again.succeeded().stdout == "42\n"


def test_an_interrupt_ends_a_cell_that_is_stopped(session: DebugSession) -> None:
    code = "for n in range(100):\n    x = n\n    print(n)"
    session.break_at(code, 2)
    cell = session.client.start(code)
    session.wait_stopped()
    session.client.interrupt()
    assert cell.wait().ename == "KeyboardInterrupt"
    assert "----> 2     x = n" in cell.traceback
    session.wait_event("continued")
    assert session.ask("debugInfo")["stoppedThreads"] == []
    # It can be done again.
    cell = session.client.start(code)
    thread = session.wait_stopped()
    assert session.where(thread) == [("<module>", 2)]
    session.client.interrupt()
    assert cell.wait().ename == "KeyboardInterrupt"
    session.wait_event("continued")
    again = session.client.start(FUNCTION)
    assert again.succeeded().stdout == "42\n"


def test_an_interrupt_ends_what_is_evaluated_first(session: DebugSession) -> None:
    session.break_at(FUNCTION, 2)
    cell = session.client.start(FUNCTION)
    thread = session.wait_stopped()
    frame = session.frames(thread)[0]["id"]
    endless = "[print('goes') for n in range(10**9) if n % 10**6 == 0]"
    evaluation = session.send("evaluate", expression=endless, frameId=frame, context="repl")
    cell.wait_stream("goes")
    session.client.interrupt()
    assert evaluation.wait(20).content["success"] is False
    session.go_on(thread)
    assert cell.succeeded().stdout.endswith("42\n")


def test_a_shutdown_while_stopped_leaves_nothing_behind(session: DebugSession) -> None:
    path = session.break_at(FUNCTION, 2)
    assert Path(path).read_text() == FUNCTION
    session.client.start(FUNCTION)
    session.wait_stopped()
    session.client.shutdown()
    session.client.process.wait_exit()
    session.client.process.wait_gone()
    assert not Path(path).parent.exists()
    session.client.abandon()


def test_a_forked_child_does_not_stop(session: DebugSession) -> None:
    session.break_at(FUNCTION, 2)
    code = (
        f"{FUNCTION[: FUNCTION.index('answer')]}"
        "import os\npid = os.fork()\nif pid == 0:\n    os._exit(double(4))\nstatus = os.waitpid(pid, 0)[1]"
    )
    session.break_at(code, 2)
    session.client.run(code).ignore_outputs()
    assert session.client.evaluate("os.waitstatus_to_exitcode(status)") == "8"


@only_capsule("ipykernel starts its debugger in a cell")
def test_it_starts_while_a_cell_runs(kernel: Client) -> None:
    # What was entered before the start is not traced, what it calls is.
    cell = kernel.start("def step(): return goes\ngoes = True\nprint('runs')\nwhile step(): pass")
    cell.wait_stream("runs")
    session = DebugSession(kernel).start()
    (thread,) = session.ask("threads")["threads"]
    session.ask("pause", threadId=thread["id"])
    session.wait_stopped("pause")
    frame = session.frames(thread["id"])[0]["id"]
    session.ask("evaluate", expression="globals().update(goes=False)", frameId=frame, context="repl")
    session.go_on(thread["id"])
    cell.succeeded()
    session.events()


def test_vs_code_s_way(start_kernel: KernelStarter) -> None:
    kernel = start_kernel(env={"PYDEVD_IPYTHON_COMPATIBLE_DEBUGGING": "1"})
    session = DebugSession(kernel)
    kernel.run("import ipykernel\nprint(ipykernel.__version__)", store_history=False, stop_on_error=False).claim(
        "stream"
    )
    session.start()
    kernel.run("import debugpy\ndebugpy.debug_this_thread()", store_history=False)
    session.break_at(FUNCTION, 2)
    cell = kernel.start(FUNCTION)
    thread = session.wait_stopped()
    assert session.ask("threads")["threads"] == [{"id": thread, "name": "MainThread"}]
    session.go_on(thread)
    assert cell.succeeded().stdout == "42\n"
    session.ask("disconnect", restart=False, terminateDebuggee=False)
