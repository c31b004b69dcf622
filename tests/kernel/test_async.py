"""Issue, point 5: natively async; each sentence of it is a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .starter import only_capsule

if TYPE_CHECKING:
    from .client import Client


def test_top_level_await_gives_its_result(shared_kernel: Client) -> None:
    assert shared_kernel.run("import asyncio\nawait asyncio.sleep(0, 'slept')").text == "'slept'"


def test_async_for_and_async_with_work_at_the_top_level(shared_kernel: Client) -> None:
    code = (
        "import contextlib\n"
        "async def count():\n"
        "    for n in range(3):\n"
        "        yield n\n"
        "@contextlib.asynccontextmanager\n"
        "async def around():\n"
        "    print('enter')\n"
        "    yield 'value'\n"
        "    print('exit')\n"
        "async with around() as got:\n"
        "    async for n in count():\n"
        "        print(got, n)"
    )
    assert shared_kernel.run(code).stdout == "enter\nvalue 0\nvalue 1\nvalue 2\nexit\n"


def test_async_comprehensions_work_at_the_top_level(shared_kernel: Client) -> None:
    shared_kernel.run("import asyncio\nasync def gen():\n    yield 1\n    yield 2\nasync def double(n): return n * 2")
    assert shared_kernel.run("[n async for n in gen()]").text == "[1, 2]"
    assert shared_kernel.run("{n: await double(n) async for n in gen()}").text == "{1: 2, 2: 4}"
    assert shared_kernel.run("[await double(n) for n in (3, 4)]").text == "[6, 8]"
    assert shared_kernel.run("await double(5) if await double(1) else None").text == "10"


def test_names_bound_around_an_await_are_the_namespaces(shared_kernel: Client) -> None:
    shared_kernel.run(
        "import asyncio\na = 1\nawait asyncio.sleep(0)\nb = a + 1\nfor c in range(3): pass\nimport json as j"
    )
    assert shared_kernel.evaluate("(a, b, c, j.__name__)") == "(1, 2, 2, 'json')"
    shared_kernel.run("def reads_global():\n    return b\nawait asyncio.sleep(0)\nb = 'changed'")
    assert shared_kernel.evaluate("reads_global()") == "'changed'"
    shared_kernel.run("await asyncio.sleep(0)\ndel b")
    assert shared_kernel.execute("b").ename == "NameError"


def test_an_await_that_fails_names_its_line(shared_kernel: Client) -> None:
    cell = shared_kernel.execute(
        "import asyncio\nasync def fails():\n    raise ValueError('in coroutine')\nawait fails()"
    )
    assert cell.ename == "ValueError"
    assert "line 4" in cell.traceback
    assert "line 3" in cell.traceback


def test_statements_before_an_await_have_run_when_it_fails(shared_kernel: Client) -> None:
    assert (
        shared_kernel.execute("done = 'yes'\nimport asyncio\nawait asyncio.wait_for(asyncio.sleep(9), 0)").ename
        == "TimeoutError"
    )
    assert shared_kernel.evaluate("done") == "'yes'"


@pytest.mark.parametrize("code", ["def f():\n    await g()", "lambda: await g()", "class C:\n    x = await g()"])
def test_await_where_python_forbids_it_is_a_syntax_error(code: str, shared_kernel: Client) -> None:
    assert shared_kernel.execute(code).ename == "SyntaxError"


def test_tasks_outlive_their_cell(shared_kernel: Client) -> None:
    shared_kernel.run(
        "import asyncio\n"
        "steps = []\n"
        "async def work():\n"
        "    for n in range(3):\n"
        "        steps.append(n)\n"
        "        await asyncio.sleep(0)"
    )
    shared_kernel.run("task = asyncio.create_task(work())")
    shared_kernel.run("await task")
    assert shared_kernel.evaluate("steps") == "[0, 1, 2]"


def test_a_task_goes_on_while_the_kernel_is_idle(shared_kernel: Client) -> None:
    cell = shared_kernel.run(
        "import asyncio\n"
        "async def tick():\n"
        "    for n in range(3):\n"
        "        await asyncio.sleep(0.01)\n"
        "        print('tick', n, flush=True)\n"
        "ticking = asyncio.create_task(tick())"
    )
    # Nothing is sent meanwhile: the loop runs by itself.
    assert cell.wait_any_stream("tick 2\n") == "tick 0\ntick 1\ntick 2\n"


def test_create_task_works_in_a_synchronous_cell(shared_kernel: Client) -> None:
    shared_kernel.run(
        "import asyncio\n"
        "async def answer(): return 42\n"
        "t = asyncio.create_task(answer())\n"
        "loop = asyncio.get_running_loop()"
    )
    assert shared_kernel.run("await t").text == "42"
    assert shared_kernel.run("asyncio.get_event_loop() is loop").text == "True"


def test_one_loop_persists_between_cells(shared_kernel: Client) -> None:
    shared_kernel.run("import asyncio\nawait asyncio.sleep(0)\nfirst = asyncio.get_running_loop()")
    assert shared_kernel.run("await asyncio.sleep(0)\nasyncio.get_running_loop() is first").text == "True"


def test_a_task_that_fails_does_not_harm_the_kernel(shared_kernel: Client) -> None:
    code = (
        "import asyncio\n"
        "async def fails(): raise ValueError('in task')\n"
        "lost = asyncio.create_task(fails())\n"
        "await asyncio.sleep(0)"
    )
    shared_kernel.run(code)
    assert shared_kernel.execute("await lost").ename == "ValueError"


def test_the_loops_exception_handler_can_be_changed(shared_kernel: Client) -> None:
    shared_kernel.run(
        "import asyncio\n"
        "seen = []\n"
        "asyncio.get_running_loop().set_exception_handler(lambda loop, c: seen.append(c['message']))"
    )
    shared_kernel.run(
        "asyncio.get_running_loop().call_soon(lambda: 1 / 0)\nawait asyncio.sleep(0)\nawait asyncio.sleep(0)"
    )
    assert "Exception in callback" in shared_kernel.evaluate("seen[0]")
    shared_kernel.run("asyncio.get_running_loop().set_exception_handler(None)")


@only_capsule("ipykernel: asyncio.run() cannot be called from a running event loop")
class TestLoopsInsideSynchronousCells:
    def test_asyncio_run_just_works(self, shared_kernel: Client) -> None:
        code = "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    return 'ran'\nasyncio.run(main())"
        assert shared_kernel.run(code).text == "'ran'"
        assert shared_kernel.run(code).text == "'ran'"

    def test_an_asyncio_runner_just_works(self, shared_kernel: Client) -> None:
        code = "import asyncio\nwith asyncio.Runner() as runner:\n    print(runner.run(asyncio.sleep(0, 'ran')))"
        assert shared_kernel.run(code).stdout == "ran\n"

    def test_run_until_complete_on_a_new_loop_just_works(self, shared_kernel: Client) -> None:
        code = (
            "import asyncio\n"
            "l = asyncio.new_event_loop()\n"
            "print(l.run_until_complete(asyncio.sleep(0, 'ran')))\n"
            "l.close()"
        )
        assert shared_kernel.run(code).stdout == "ran\n"

    def test_anyio_run_just_works(self, shared_kernel: Client) -> None:
        code = "import anyio\nasync def main():\n    await anyio.sleep(0)\n    return 'ran'\nanyio.run(main)"
        assert shared_kernel.run(code).text == "'ran'"

    def test_a_library_that_calls_asyncio_run_just_works(self, shared_kernel: Client) -> None:
        (shared_kernel.process.cwd / "sync_facade.py").write_text(
            "import asyncio\n"
            "async def _fetch():\n"
            "    await asyncio.sleep(0)\n"
            "    return 'fetched'\n"
            "def fetch():\n"
            "    return asyncio.run(_fetch())\n"
        )
        assert shared_kernel.run("import sync_facade\nsync_facade.fetch()").text == "'fetched'"

    def test_the_kernels_tasks_go_on_after_asyncio_run(self, shared_kernel: Client) -> None:
        shared_kernel.run(
            "import asyncio\n"
            "state = []\n"
            "async def mine():\n"
            "    await asyncio.sleep(0.01)\n"
            "    state.append('done')\n"
            "mine_task = asyncio.create_task(mine())"
        )
        shared_kernel.run("asyncio.run(asyncio.sleep(0))")
        shared_kernel.run("await mine_task")
        assert shared_kernel.evaluate("state") == "['done']"

    def test_asyncio_run_after_an_await_says_what_is_wrong_or_works(self, shared_kernel: Client) -> None:
        """In an awaiting cell a loop is running; Python's own error is the honest answer there."""
        cell = shared_kernel.execute("import asyncio\nawait asyncio.sleep(0)\nx = asyncio.run(asyncio.sleep(0, 'ran'))")
        if cell.status == "error":
            assert cell.ename == "RuntimeError"
            cell.claim("stream")
        # The coroutine that could not run is reported when Python drops it.
        shared_kernel.run("import gc, sys\nsys.last_exc = None\n_ = gc.collect()").claim("stream")
        assert shared_kernel.run("await asyncio.sleep(0, 'next')").text == "'next'"

    def test_asyncio_run_with_an_error_leaves_the_loop_well(self, shared_kernel: Client) -> None:
        code = "import asyncio\nasync def fails(): raise ValueError('inside')\nasyncio.run(fails())"
        assert shared_kernel.execute(code).ename == "ValueError"
        assert shared_kernel.run("await asyncio.sleep(0, 'fine')").text == "'fine'"

    def test_asyncio_run_in_a_thread_works(self, shared_kernel: Client) -> None:
        code = (
            "import asyncio, concurrent.futures as f\n"
            "with f.ThreadPoolExecutor(1) as pool:\n"
            "    got = pool.submit(asyncio.run, asyncio.sleep(0, 'ran')).result()"
        )
        shared_kernel.run(code)
        assert shared_kernel.evaluate("got") == "'ran'"


@pytest.mark.parametrize("prefix", ["", "import asyncio\nawait asyncio.sleep(0)\n"], ids=["sync", "await"])
def test_context_variables_are_there_in_the_next_cell(prefix: str, shared_kernel: Client) -> None:
    if prefix and shared_kernel.process_is_ipykernel():
        pytest.skip("ipykernel #749")
    shared_kernel.run("import contextvars\nvar = contextvars.ContextVar('var', default='unset')")
    shared_kernel.run(prefix + "token = var.set('set in a cell')")
    assert shared_kernel.run("var.get()").text == "'set in a cell'"
    assert shared_kernel.run("import asyncio\nawait asyncio.sleep(0)\nvar.get()").text == "'set in a cell'"
    shared_kernel.run(prefix + "var.reset(token)")
    assert shared_kernel.run("var.get()").text == "'unset'"


@only_capsule("ipykernel leaves it to Python's warning")
class TestCoroutinesThatNobodyAwaited:
    def test_one_that_is_dropped_is_reported(self, shared_kernel: Client) -> None:
        shared_kernel.run("async def forgotten(): pass")
        cell = shared_kernel.run("forgotten();")
        assert "forgotten" in cell.stderr
        assert "never awaited" in cell.stderr

    def test_one_that_is_kept_and_awaited_later_is_not_reported(self, shared_kernel: Client) -> None:
        shared_kernel.run("async def kept(): return 1\ncoro = kept()").ignore_outputs()
        cell = shared_kernel.run("await coro")
        assert cell.text == "1"
        assert cell.stderr == ""

    def test_one_handed_to_a_task_or_gather_is_not_reported(self, shared_kernel: Client) -> None:
        code = (
            "import asyncio\n"
            "async def fine(): return 1\n"
            "t = asyncio.create_task(fine())\n"
            "await asyncio.gather(fine(), fine())"
        )
        cell = shared_kernel.run(code)
        assert cell.text == "[1, 1]"
        assert cell.stderr == ""


def test_autoawait_of_a_coroutine_function_defined_in_the_cell(shared_kernel: Client) -> None:
    code = (
        "import asyncio\n"
        "async def work(n):\n"
        "    await asyncio.sleep(0)\n"
        "    return n\n"
        "sum(await asyncio.gather(*(work(n) for n in range(100))))"
    )
    assert shared_kernel.run(code).text == "4950"


def test_task_groups_and_timeouts_work(shared_kernel: Client) -> None:
    code = (
        "import asyncio\n"
        "async with asyncio.TaskGroup() as group:\n"
        "    one = group.create_task(asyncio.sleep(0, 1))\n"
        "    two = group.create_task(asyncio.sleep(0, 2))\n"
        "(one.result(), two.result())"
    )
    assert shared_kernel.run(code).text == "(1, 2)"
    assert shared_kernel.execute("async with asyncio.timeout(0):\n    await asyncio.sleep(60)").ename == "TimeoutError"


def test_subprocesses_and_streams_of_asyncio_work(shared_kernel: Client) -> None:
    code = (
        "import asyncio\n"
        "process = await asyncio.create_subprocess_exec('echo', 'from a child', stdout=asyncio.subprocess.PIPE)\n"
        "out, _err = await process.communicate()\n"
        "(out, process.returncode)"
    )
    assert shared_kernel.run(code).text == r"(b'from a child\n', 0)"


def test_to_thread_works(shared_kernel: Client) -> None:
    assert shared_kernel.run("import asyncio\nawait asyncio.to_thread(lambda: 6 * 7)").text == "42"


def test_cancelling_oneself_is_an_error_of_the_cell(shared_kernel: Client) -> None:
    cell = shared_kernel.execute("import asyncio\nraise asyncio.CancelledError('by hand')")
    assert cell.ename == "CancelledError"
    assert shared_kernel.run("await asyncio.sleep(0, 'fine')").text == "'fine'"
