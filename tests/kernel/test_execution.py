"""Cells: results, names, counts, expressions, payloads, events, magics and tracebacks.

Issue, point 4: the worker embeds IPython's shell with magics, `In/Out/_`, rich displays, tracebacks with
`Cell In[n], line m`, `user_expressions`, payloads, events. Order: busy, execute_input, outputs, reply, idle (each cell
of this suite is checked for it by the client).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .exchange import plain
from .starter import only_capsule

if TYPE_CHECKING:
    from .client import Client


def test_the_last_expression_is_the_result(shared_kernel: Client) -> None:
    assert shared_kernel.run("x = 20\nx + 22").text == "42"


def test_a_semicolon_hides_the_result(shared_kernel: Client) -> None:
    shared_kernel.run("1 + 1;")


def test_none_is_no_result(shared_kernel: Client) -> None:
    shared_kernel.run("None")


def test_an_assignment_is_no_result(shared_kernel: Client) -> None:
    shared_kernel.run("y = 5")


def test_the_last_expression_is_evaluated_once(shared_kernel: Client) -> None:
    shared_kernel.run("calls = []\ndef f():\n    calls.append(1)\n    return len(calls)")
    assert shared_kernel.run("f()").text == "1"
    assert shared_kernel.evaluate("calls") == "[1]"


def test_all_expressions_are_shown_when_asked_for(kernel: Client) -> None:
    kernel.run("get_ipython().ast_node_interactivity = 'all'")
    cell = kernel.run("1\n2")
    assert [m.content["data"]["text/plain"] for m in cell.claim("execute_result")] == ["1", "2"]


def test_underscores_in_and_out_hold_what_ran(kernel: Client) -> None:
    for name in ("first", "second", "third"):
        assert kernel.run(repr(name)).text == repr(name)
    assert kernel.run("(_, __, ___)").text == "('third', 'second', 'first')"
    assert kernel.run("(Out[1], _2, _oh[3])").text == "('first', 'second', 'third')"
    assert kernel.run("(In[1], _i2, _ih[3])").text == "(\"'first'\", \"'second'\", \"'third'\")"
    assert kernel.run("_i").text.startswith("'(In[1]")


def test_execution_count_rises_by_one_per_stored_cell(kernel: Client) -> None:
    counts = [kernel.run("pass").execution_count for _ in range(3)]
    assert counts == [1, 2, 3]


def test_execute_input_carries_the_count_of_the_reply(kernel: Client) -> None:
    cell = kernel.run("pass")
    (message,) = cell.claim("execute_input")
    assert message.content["execution_count"] == cell.execution_count == 1


def test_silent_publishes_no_input_or_result_and_does_not_count(kernel: Client) -> None:
    before = kernel.run("pass").execution_count
    kernel.run("z = 1\n'not shown'", silent=True)
    assert kernel.run("pass").execution_count == before + 1
    assert kernel.evaluate("z") == "1"


def test_silent_still_prints(shared_kernel: Client) -> None:
    # IPython's users rely on it: only the input and the result are left out.
    assert shared_kernel.run("print('heard')", silent=True).stdout == "heard\n"


def test_without_store_history_nothing_counts_and_nothing_is_kept(kernel: Client) -> None:
    first = kernel.run("'kept'")
    assert first.text == "'kept'"
    unstored = kernel.run("'shown'", store_history=False)
    assert unstored.text == "'shown'"
    after = kernel.run("'after'")
    assert after.text == "'after'"
    assert after.execution_count == first.execution_count + 1
    history = kernel.ask("history_request", {"hist_access_type": "tail", "n": 10, "output": False, "raw": True})
    assert [entry[2] for entry in history["history"]][-2:] == ["'kept'", "'after'"]


@pytest.mark.parametrize("code", ["", "   ", "\n\n", "# only a comment"])
def test_code_without_a_statement_is_fine(code: str, shared_kernel: Client) -> None:
    shared_kernel.run(code)


def test_user_expressions_are_evaluated_after_the_code(shared_kernel: Client) -> None:
    cell = shared_kernel.run("a = 6", user_expressions={"good": "a * 7", "bad": "1 / 0", "wrong": "]"})
    answers = cell.content["user_expressions"]
    assert answers["good"] == {"status": "ok", "data": {"text/plain": "42"}, "metadata": {}}
    assert answers["bad"]["status"] == "error"
    assert answers["bad"]["ename"] == "ZeroDivisionError"
    assert answers["bad"]["evalue"] == "division by zero"
    assert answers["bad"]["traceback"]
    assert answers["wrong"]["ename"] == "SyntaxError"


def test_user_expressions_are_not_evaluated_after_an_error(shared_kernel: Client) -> None:
    cell = shared_kernel.execute("1 / 0", user_expressions={"never": "print('no')"})
    assert cell.ename == "ZeroDivisionError"
    assert cell.content["user_expressions"] == {}
    assert cell.content["payload"] == []


def test_user_expressions_give_rich_data(shared_kernel: Client) -> None:
    shared_kernel.run("class Rich:\n    def _repr_html_(self):\n        return '<b>rich</b>'")
    cell = shared_kernel.run("", user_expressions={"rich": "Rich()"})
    assert cell.content["user_expressions"]["rich"]["data"]["text/html"] == "<b>rich</b>"


def test_the_reply_tells_when_the_cell_started(shared_kernel: Client) -> None:
    """JupyterLab's cell timing reads metadata.started of the reply."""
    cell = shared_kernel.run("pass")
    assert cell.reply is not None
    assert cell.reply.metadata["status"] == "ok"
    assert cell.reply.metadata["started"] <= cell.reply.header["date"]


def test_question_mark_pages_the_help(shared_kernel: Client) -> None:
    (payload,) = shared_kernel.run("print?").content["payload"]
    assert payload["source"] == "page"
    assert payload["start"] == 0
    assert "Docstring" in payload["data"]["text/plain"]


def test_only_the_last_next_input_is_kept(shared_kernel: Client) -> None:
    cell = shared_kernel.run("ip = get_ipython()\nip.set_next_input('one')\nip.set_next_input('two', replace=True)")
    assert cell.content["payload"] == [{"source": "set_next_input", "text": "two", "replace": True}]
    assert shared_kernel.run("pass").content["payload"] == []


def test_percent_load_fills_the_next_input(shared_kernel: Client) -> None:
    (shared_kernel.process.cwd / "snippet.py").write_text("loaded = 1\n")
    (payload,) = shared_kernel.run("%load snippet.py").content["payload"]
    assert payload["source"] == "set_next_input"
    assert "loaded = 1" in payload["text"]


def test_events_run_around_each_cell(kernel: Client) -> None:
    kernel.run(
        "log = []\n"
        "events = get_ipython().events\n"
        "for name in ('pre_execute', 'pre_run_cell', 'post_execute', 'post_run_cell'):\n"
        "    events.register(name, lambda *a, name=name: log.append(name))"
    )
    kernel.run("log.clear()\nlog.append('cell')")
    assert kernel.evaluate("log[:3]") == "['cell', 'post_execute', 'post_run_cell']"
    kernel.run("seen = list(log)")
    assert kernel.evaluate("seen[-2:]") == "['pre_execute', 'pre_run_cell']"


def test_an_event_handler_that_prints_is_heard_in_its_cell(kernel: Client) -> None:
    kernel.run("get_ipython().events.register('pre_run_cell', lambda info: print('before', info.raw_cell))")
    kernel.run(
        "get_ipython().events.register('post_run_cell', lambda result: print('after', result.success))"
    ).ignore_outputs()
    assert kernel.run("print('cell')").stdout == "before print('cell')\ncell\nafter True\n"


def test_a_post_run_handler_sees_the_error(kernel: Client) -> None:
    kernel.run("seen = []\nget_ipython().events.register('post_run_cell', lambda r: seen.append(r.error_in_exec))")
    assert kernel.execute("1 / 0").ename == "ZeroDivisionError"
    assert kernel.evaluate("type(seen[-1]).__name__") == "'ZeroDivisionError'"


# --- magics ----------------------------------------------------------------------------------------------------------


def test_line_and_cell_magics_work(shared_kernel: Client) -> None:
    assert shared_kernel.run("%pwd").text == repr(str(shared_kernel.process.cwd))
    cell = shared_kernel.run("%%time\nprint('timed')\n6 * 7")
    assert cell.stdout.startswith("timed\n")
    assert "Wall time" in cell.stdout
    assert cell.text == "42"


def test_timeit_and_capture_work(shared_kernel: Client) -> None:
    assert "per loop" in shared_kernel.run("%timeit -n 2 -r 2 pass").stdout
    shared_kernel.run("%%capture got\nprint('captured')")
    assert shared_kernel.evaluate("got.stdout") == "'captured\\n'"


def test_writefile_and_run_work(shared_kernel: Client) -> None:
    assert "Writing script.py" in shared_kernel.run("%%writefile script.py\nran = __name__\nprint('in script')").stdout
    assert shared_kernel.run("%run script.py").stdout == "in script\n"
    assert shared_kernel.evaluate("ran") == "'__main__'"


def test_user_defined_magics_work(shared_kernel: Client) -> None:
    shared_kernel.run(
        "from IPython.core.magic import register_line_cell_magic\n"
        "@register_line_cell_magic\n"
        "def twice(line, cell=None):\n"
        "    return line * 2 if cell is None else cell * 2\n"
    )
    assert shared_kernel.run("%twice ab").text == "'abab'"
    assert shared_kernel.run("%%twice\nx").text == r"'x\nx\n'"


def test_shell_commands_print_and_set_the_exit_code(shared_kernel: Client) -> None:
    cell = shared_kernel.run("!echo to stdout; echo to stderr >&2; exit 3")
    assert "to stdout" in cell.stdout + cell.stderr
    assert "to stderr" in cell.stdout + cell.stderr
    assert shared_kernel.evaluate("_exit_code") == "3"


def test_a_shell_that_tells_a_signal_gives_it_below_zero(shared_kernel: Client) -> None:
    shared_kernel.run("!exit 130").claim("stream")
    assert shared_kernel.evaluate("_exit_code") == "-2"


@pytest.mark.parametrize("shell", [None, "sh", "/bin/sh"])
def test_the_shell_is_the_users_or_sh_by_its_whole_path(kernel: Client, shell: str | None) -> None:
    kernel.run(f"import os, shutil\n_ = os.environ.pop('SHELL', None)\nshell = {shell!r}")
    kernel.run("if shell: os.environ['SHELL'] = shell")
    path = kernel.evaluate("shutil.which(shell or 'sh')").strip("'")
    assert kernel.run("!nosuchprogram").stdout == f"{path}: 1: nosuchprogram: not found\r\n"


@only_capsule("the text is its own")
def test_a_shell_that_is_not_there_is_named(kernel: Client) -> None:
    kernel.run("%env SHELL=/nowhere/sh").claim("stream")
    assert "/nowhere/sh" in kernel.execute("!true").error["evalue"]


def test_shell_output_can_be_assigned(shared_kernel: Client) -> None:
    shared_kernel.run("lines = !printf 'a\\nb\\n'")
    assert shared_kernel.evaluate("list(lines)") == "['a', 'b']"


def test_cell_script_magic_runs_bash(shared_kernel: Client) -> None:
    assert shared_kernel.run("%%bash\necho $((6 * 7))").stdout == "42\n"


def test_percent_reset_clears_the_namespace_and_keeps_the_dict(kernel: Client) -> None:
    kernel.run("thing = 1\nbefore = id(globals())")
    before = kernel.evaluate("before")
    kernel.run("%reset -f").ignore_outputs()
    assert kernel.execute("thing").ename == "NameError"
    assert kernel.evaluate("id(globals())") == before


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_traceback_names_the_cell_and_the_line(kernel: Client) -> None:
    kernel.run("def divide(a, b):\n    return a / b")
    cell = kernel.execute("x = 1\ndivide(x, 0)")
    assert cell.ename == "ZeroDivisionError"
    assert cell.error["evalue"] == "division by zero"
    assert "Cell In[2], line 2" in cell.traceback
    assert "Cell In[1], line 2" in cell.traceback
    assert "return a / b" in cell.traceback


def test_a_traceback_shows_no_frame_of_the_kernel(kernel: Client) -> None:
    for code in ("1 / 0", "await nothing", "import asyncio\nawait asyncio.wait_for(asyncio.sleep(9), 0)"):
        cell = kernel.execute(code)
        assert "capsule_kernel" not in cell.traceback
        assert "Cell In[" in cell.traceback


def test_a_syntax_error_points_into_the_cell(kernel: Client) -> None:
    cell = kernel.execute("x = 1\ny = = 2")
    assert cell.ename == "SyntaxError"
    assert "Cell In[1], line 2" in cell.traceback
    assert "y = = 2" in cell.traceback


@pytest.mark.parametrize(
    "code", ["return 5", "break", "def f(:\n  pass", "  indented = 1\nx", "x = 'open", "nonlocal q"]
)
def test_code_that_does_not_compile_is_an_error_and_nothing_more(code: str, shared_kernel: Client) -> None:
    assert shared_kernel.execute(code).ename in {"SyntaxError", "IndentationError"}
    assert shared_kernel.run("1 + 1").text == "2"


def test_chained_and_grouped_exceptions_are_shown_whole(shared_kernel: Client) -> None:
    cell = shared_kernel.execute("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('inner') from e")
    assert cell.ename == "KeyError"
    assert "ZeroDivisionError" in cell.traceback
    grouped = shared_kernel.execute("raise ExceptionGroup('several', [ValueError('one'), OSError('two')])")
    # IPython prints a group's traceback as Python does, on a stream.
    grouped.claim("error")
    assert grouped.content["ename"] == "ExceptionGroup"
    shown = "".join(grouped.content["traceback"]) + grouped.stdout + grouped.stderr
    assert "ValueError: one" in plain(shown)


def test_a_traceback_with_bytes_that_are_no_text_is_sent(shared_kernel: Client) -> None:
    assert shared_kernel.execute(r"raise ValueError('\udce4 \x00 \U0001f600')").ename == "ValueError"


def test_an_exception_whose_str_raises_is_reported(shared_kernel: Client) -> None:
    code = "class Bad(Exception):\n    def __str__(self):\n        raise RuntimeError('in str')\nraise Bad()"
    assert shared_kernel.execute(code).ename == "Bad"


def test_warnings_are_shown_on_stderr_with_their_cell(shared_kernel: Client) -> None:
    text = shared_kernel.run("import warnings\nwarnings.warn('careful')").stderr
    assert "UserWarning: careful" in text


def test_a_syntax_warning_is_shown(shared_kernel: Client) -> None:
    assert "SyntaxWarning" in shared_kernel.run("s = '\\d'").stderr


@pytest.mark.parametrize("code", ["raise SystemExit", "import sys; sys.exit(3)", "import sys; sys.exit('bye')"])
def test_system_exit_is_an_error_of_the_cell(code: str, shared_kernel: Client) -> None:
    cell = shared_kernel.execute(code)
    cell.claim("stream")
    assert cell.ename == "SystemExit"
    assert shared_kernel.run("1 + 1").text == "2"


@pytest.mark.parametrize("code", ["exit", "exit()", "quit", "quit()"])
def test_exit_ends_the_kernel(code: str, kernel: Client) -> None:
    cell = kernel.run(code)
    assert {"source": "ask_exit", "keepkernel": False} in cell.content["payload"]
    # The kernel of a notebook ends when asked to; the client's restarter sees its exit status.
    kernel.drain()
    assert kernel.process.wait_exit() == 0
    kernel.drain()
    kernel.claim_unparented("shutdown_reply")
    for exchange in kernel.exchanges.values():
        exchange.claim("shutdown_reply")
        exchange.late.clear()
    kernel.process.wait_gone()


def test_exit_with_keep_kernel_leaves_it_running(kernel: Client) -> None:
    cell = kernel.run("quit(keep_kernel=True)")
    assert {"source": "ask_exit", "keepkernel": True} in cell.content["payload"]
    assert kernel.run("1 + 1").text == "2"


# --- odd code --------------------------------------------------------------------------------------------------------


def test_code_with_a_null_byte_is_an_error(shared_kernel: Client) -> None:
    cell = shared_kernel.execute("x = 1\x00")
    assert cell.ename in {"SyntaxError", "ValueError"}
    assert "null" in cell.error["evalue"]
    assert shared_kernel.run("1 + 1").text == "2"


def test_a_cell_of_ten_megabytes_runs(kernel: Client) -> None:
    cell = kernel.run(f"text = '{'x' * 10_000_000}'\nlen(text)", timeout_s=40)
    assert cell.text == "10000000"


@pytest.mark.parametrize("text", ["é", "日本語", "\U0001f600", "\u2028", "\r\n"])
def test_text_of_any_script_comes_back_as_it_was(text: str, shared_kernel: Client) -> None:
    cell = shared_kernel.run(f"print({text!r}, end='')\n{text!r}")
    assert cell.stdout == text
    assert cell.text == repr(text)


def test_main_is_the_namespace(shared_kernel: Client) -> None:
    shared_kernel.run(
        "import __main__\nmarker = object()\nassert __main__.marker is marker\nassert __name__ == '__main__'"
    )
    shared_kernel.run("import pickle\nclass Here: pass\nassert type(pickle.loads(pickle.dumps(Here()))) is Here")


def test_the_working_directory_is_importable(shared_kernel: Client) -> None:
    (shared_kernel.process.cwd / "beside_the_notebook.py").write_text("value = 'found'\n")
    assert shared_kernel.run("import beside_the_notebook\nbeside_the_notebook.value").text == "'found'"
    assert shared_kernel.evaluate("'' in __import__('sys').path") == "True"


def test_the_environment_is_what_libraries_expect(shared_kernel: Client) -> None:
    shared_kernel.run("import os")
    for name, value in {
        "TERM": "xterm-color",
        "CLICOLOR": "1",
        "FORCE_COLOR": "1",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
    }.items():
        assert shared_kernel.evaluate(f"os.environ[{name!r}]") == repr(value)
    assert shared_kernel.evaluate("os.environ['MPLBACKEND']") == "'module://matplotlib_inline.backend_inline'"


def test_libraries_that_sniff_for_a_notebook_find_one(shared_kernel: Client) -> None:
    assert shared_kernel.evaluate("type(get_ipython()).__name__") == "'ZMQInteractiveShell'"
    assert shared_kernel.evaluate("'IPKernelApp' in get_ipython().config") == "True"
    assert shared_kernel.evaluate("'zmq' in str(type(get_ipython())).lower()") == "True"
    # loguru asks this.
    shared_kernel.run(
        "from ipykernel.zmqshell import ZMQInteractiveShell\nassert isinstance(get_ipython(), ZMQInteractiveShell)"
    )
    # Python's rich asks this.
    assert shared_kernel.evaluate("get_ipython().__class__.__name__") == "'ZMQInteractiveShell'"


def test_breakpoint_names_are_stable_between_cells(kernel: Client) -> None:
    """Cell files share one prefix for the kernel's life."""
    kernel.run("import inspect\nfirst = inspect.currentframe().f_code.co_filename")
    kernel.run("second = inspect.currentframe().f_code.co_filename")
    assert kernel.evaluate("first.rpartition('/')[0] == second.rpartition('/')[0] and first != second") == "True"
    assert kernel.evaluate("'ipykernel_' in first") == "True"


def test_source_of_functions_is_found(shared_kernel: Client) -> None:
    shared_kernel.run("def documented():\n    return 'body'")
    assert "return 'body'" in shared_kernel.run("import inspect\nprint(inspect.getsource(documented))").stdout


def test_vs_code_can_ask_for_completions_by_executing_code(shared_kernel: Client) -> None:
    """VS Code calls do_complete and do_inspect in a thread and reads a plain dict (research: VS Code, point 5)."""
    code = (
        "import threading, json\n"
        "holder = {}\n"
        "def ask():\n"
        "    holder['complete'] = get_ipython().kernel.do_complete('pri', 3)\n"
        "    holder['inspect'] = get_ipython().kernel.do_inspect('print', 5, 0)\n"
        "thread = threading.Thread(target=ask)\n"
        "thread.start()\n"
        "thread.join(10)\n"
        "print(json.dumps([holder['complete']['matches'], holder['inspect']['found']]))"
    )
    text = shared_kernel.run(code, store_history=False, stop_on_error=False).stdout
    assert '"print"' in text
    assert text.endswith("true]\n")


def test_many_cells_sent_at_once_run_in_order(kernel: Client) -> None:
    kernel.run("ran = []")
    cells = [kernel.start(f"ran.append({n})\n{n}") for n in range(50)]
    assert [cell.wait().text for cell in cells] == [str(n) for n in range(50)]
    assert kernel.evaluate("ran == list(range(50))") == "True"
    assert [cell.execution_count for cell in cells] == list(range(2, 52))


MEMORY_BY_DEPTH = """
import resource
def leaf(a, b, c):
    x = y = z = a
    return x
def loop():
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(3000):
        leaf(1, 2, 3)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
def at(depth):
    return at(depth - 1) if depth else loop()
def unlucky():
    return [depth for depth in range(400) if at(depth) >= 3000]
"""
"""Where each call maps memory anew, because CPython's chunk of frames ends there."""


@only_capsule("it has such depths")
def test_at_no_depth_does_a_call_map_memory_each_time(shared_kernel: Client) -> None:
    shared_kernel.run(MEMORY_BY_DEPTH)
    assert shared_kernel.evaluate("unlucky()") == "[]"
    assert shared_kernel.run("await __import__('asyncio').sleep(0)\nunlucky()").text == "[]"
