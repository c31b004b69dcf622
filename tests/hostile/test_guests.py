"""Guests that exit, recurse, flood, replace what the interpreter gave them (issue, section "Tests")."""

from __future__ import annotations

import pytest

from tests.kernel.client import Client
from tests.kernel.starter import KernelStarter, only_capsule

pytestmark = only_capsule("other kernels die of some of these")


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit()",
        "raise SystemExit(1)",
        "raise KeyboardInterrupt",
        "raise GeneratorExit",
        "raise BaseException('bare')",
    ],
)
def test_whatever_is_raised_is_the_cells_error(code: str, shared_kernel: Client) -> None:
    cell = shared_kernel.execute(code)
    assert cell.status == "error"
    cell.ignore_outputs()
    assert shared_kernel.run("6 * 7").text == "42"


def test_deep_recursion_is_an_error(shared_kernel: Client) -> None:
    cell = shared_kernel.execute("def f(n): return f(n + 1)\nf(0)", timeout_s=30)
    assert cell.ename == "RecursionError"
    assert shared_kernel.run("6 * 7").text == "42"


def test_recursion_without_a_limit_ends_in_an_answer(kernel: Client) -> None:
    code = (
        "import sys\n"
        "sys.setrecursionlimit(10**9)\n"
        "def f(n): return f(n + 1)\n"
        "class R:\n"
        "    def __repr__(self): return repr(self)\n"
        "repr(R())"
    )
    kernel.execute(code, timeout_s=40).ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


def test_exit_from_a_thread_or_task_ends_only_that(kernel: Client) -> None:
    kernel.run("import sys, threading\nt = threading.Thread(target=sys.exit)\nt.start()\nt.join()")
    cell = kernel.run("import asyncio\nasync def leave(): sys.exit(3)\ntask = asyncio.create_task(leave())")
    cell.claim("stream")
    second = kernel.execute("await asyncio.sleep(0.01)")
    second.ignore_outputs()
    kernel.drain()
    for exchange in kernel.exchanges.values():
        exchange.ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


# --- output ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_megabytes_arrive_whole(kernel: Client) -> None:
    cell = kernel.start("print('x' * 100_000_000)")
    text = cell.wait(50).stdout
    assert len(text) == 100_000_001
    assert text.strip("x") == "\n"
    assert kernel.run("6 * 7").text == "42"


@pytest.mark.slow
def test_a_hundred_megabytes_by_descriptor_arrive_whole(kernel: Client) -> None:
    cell = kernel.start("_ = __import__('os').system('head -c 100000000 /dev/zero | tr \"\\\\0\" x')")
    assert len(cell.wait(50).stdout) == 100_000_000
    assert kernel.run("6 * 7").text == "42"


def test_a_result_of_ten_megabytes_arrives_whole(kernel: Client) -> None:
    cell = kernel.run(
        "from IPython.display import display\ndisplay({'text/plain': 'x' * 10_000_000}, raw=True)", timeout_s=30
    )
    assert len(cell.displays[0]["data"]["text/plain"]) == 10_000_000


def test_output_is_bounded_by_the_setting_and_the_cut_is_told(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.max_output_bytes=1000000")
    cell = kernel.execute("display({'text/plain': 'x' * 5_000_000}, raw=True)", timeout_s=30)
    sizes = [len(str(message.content)) for message in cell.claim()]
    assert max(sizes) <= 1_100_000
    told = " ".join(str(message.content)[-300:] for message in cell.claim())
    assert "max_output_bytes" in told
    assert kernel.run("6 * 7").text == "42"


def test_an_endless_flood_can_be_interrupted(kernel: Client) -> None:
    cell = kernel.start("while True: print('flood' * 100)")
    cell.wait_stream("flood")
    kernel.interrupt()
    cell.wait(20)
    cell.claim("stream")
    assert cell.ename == "KeyboardInterrupt"
    assert kernel.run("6 * 7").text == "42"


def test_many_displays_arrive_in_order(kernel: Client) -> None:
    cell = kernel.run("for n in range(1000): display(n)", timeout_s=30)
    assert [content["data"]["text/plain"] for content in cell.displays] == [str(n) for n in range(1000)]


@pytest.mark.parametrize(
    "code",
    [
        "display({'application/json': {'nan': float('nan'), 'inf': [float('inf')]}}, raw=True)",
        "display({'text/plain': '\\ud800 lone surrogate'}, raw=True)",
        "print('\\ud800 lone surrogate')",
        "'\\udcff'",
        "display({'application/json': {1: object()}}, raw=True)",
        "display({'image/png': b'\\x00\\xff'}, raw=True)",
        "display({'text/plain': lambda: 1}, raw=True)",
        "display({'a': 1}, raw=True, metadata={'m': {1, 2}})",
    ],
)
def test_values_that_json_does_not_know_end_in_an_answer(code: str, shared_kernel: Client) -> None:
    """The client refuses bytes that are no JSON; shown in some form, or refused with an error: both are answers."""
    cell = shared_kernel.execute(code)
    assert cell.status in {"ok", "error"}
    cell.ignore_outputs()
    assert shared_kernel.run("6 * 7").text == "42"


def test_a_circular_display_ends_in_an_answer(shared_kernel: Client) -> None:
    cell = shared_kernel.execute("loop = []\nloop.append(loop)\ndisplay({'application/json': loop}, raw=True)")
    cell.ignore_outputs()
    assert shared_kernel.run("6 * 7").text == "42"


def test_user_expressions_that_json_does_not_know_end_in_an_answer(shared_kernel: Client) -> None:
    cell = shared_kernel.execute(
        "class Odd:\n"
        "    def _repr_json_(self): return {'nan': float('nan'), 'set': {1}}\n"
        "    def __repr__(self): return '\\ud800'",
        user_expressions={"odd": "Odd()"},
    )
    assert cell.content["user_expressions"]["odd"]["status"] in {"ok", "error"}
    cell.ignore_outputs()


# --- reprs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raised", ["ValueError('no repr')", "SystemExit", "KeyboardInterrupt", "RecursionError"])
def test_a_repr_that_raises_ends_in_an_answer(raised: str, shared_kernel: Client) -> None:
    cell = shared_kernel.execute(f"class Bad:\n    def __repr__(self): raise {raised}\nBad()")
    cell.ignore_outputs()
    assert shared_kernel.run("6 * 7").text == "42"


def test_a_rich_repr_that_raises_leaves_the_plain_one(shared_kernel: Client) -> None:
    code = (
        "class Half:\n"
        "    def _repr_html_(self): raise ValueError('no html')\n"
        "    def __repr__(self): return 'plain'\n"
        "Half()"
    )
    cell = shared_kernel.execute(code)
    assert cell.text == "plain"
    cell.ignore_outputs()


def test_a_repr_that_hangs_can_be_interrupted(shared_kernel: Client) -> None:
    code = (
        "import time\n"
        "class Slow:\n"
        "    def __repr__(self):\n"
        "        print('in repr', flush=True)\n"
        "        time.sleep(60)\n"
        "Slow()"
    )
    cell = shared_kernel.start(code)
    cell.wait_stream("in repr\n")
    shared_kernel.interrupt()
    cell.wait()
    cell.ignore_outputs()
    assert shared_kernel.run("6 * 7").text == "42"


def test_a_repr_that_kills_is_a_death(kernel: Client) -> None:
    cell = kernel.execute("import os\nclass Deadly:\n    def __repr__(self): os._exit(9)\nDeadly()")
    assert "9" in cell.error["evalue"]
    assert kernel.run("6 * 7").text == "42"


# --- what the interpreter gave them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["None", "object()", "__import__('io').StringIO()", "open('/dev/null', 'w')"])
def test_replaced_streams_are_back_or_harmless(value: str, kernel: Client) -> None:
    kernel.execute(f"import sys\nmine = sys.stdout = sys.stderr = {value}").ignore_outputs()
    kernel.execute("print('somewhere')").ignore_outputs()
    assert kernel.run("6 * 7").text == "42"
    kernel.execute("1 / 0").ignore_outputs()
    kernel.execute("sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__").ignore_outputs()
    assert kernel.run("print('back', flush=True)").stdout == "back\n"


def test_a_closed_stream_is_survived(kernel: Client) -> None:
    kernel.execute("import sys\nsys.stdout.close()\nsys.stderr.close()").ignore_outputs()
    kernel.execute("print('perhaps')").ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


def test_deleted_builtins_are_survived(kernel: Client) -> None:
    code = (
        "import builtins\n"
        "for name in ('print', 'len', 'isinstance', 'open', 'ValueError', 'getattr', 'str'):\n"
        "    delattr(builtins, name)"
    )
    kernel.execute(code).ignore_outputs()
    kernel.execute("1 + 1").ignore_outputs()
    kernel.execute("import os; os._exit(0)").ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


def test_all_builtins_cleared_are_survived(kernel: Client) -> None:
    kernel.execute("import builtins\nbuiltins.__dict__.clear()", timeout_s=20).ignore_outputs()
    kernel.execute("1 + 1", timeout_s=20).ignore_outputs()
    # The worker may be of no use any more; an interrupt, twice, or `%reset --worker` brings a new one.
    cell = kernel.execute("6 * 7", timeout_s=20).ignore_outputs()
    if cell.status == "error":
        kernel.execute("%reset --worker", timeout_s=20).ignore_outputs()
        assert kernel.run("6 * 7").text == "42"


def test_a_namespace_that_shadows_builtins_and_modules_is_the_users_own(kernel: Client) -> None:
    kernel.run("print = len = str = asyncio = sys = os = None\nget_ipython = None\ndisplay = None")
    assert kernel.run("6 * 7").text == "42"
    assert kernel.execute("1 / 0").ename == "ZeroDivisionError"
    kernel.run("await __import__('asyncio').sleep(0)")


def test_a_cleared_namespace_is_survived(kernel: Client) -> None:
    assert kernel.run("namespace = globals()\nglobals().clear()\n5").text == "5"
    kernel.run("x = 1")
    assert kernel.run("6 * 7").text == "42"
    assert kernel.evaluate("(_, Out[3], In[2], __name__, get_ipython().user_ns is globals())") == (
        "(42, 42, 'x = 1', '__main__', True)"
    )


@pytest.mark.parametrize("name", ["_oh", "_ih", "_dh"])
def test_an_overwritten_history_is_the_shells_again(name: str, kernel: Client) -> None:
    kernel.execute(f"{name} = None").ignore_outputs()
    assert kernel.run("6 * 7").text == "42"
    assert kernel.evaluate(f"{name} is None") == "False"
    kernel.run("%cd .").claim("stream")


def test_names_that_are_put_back_may_have_the_users_value(kernel: Client) -> None:
    kernel.run("exit = open = 'mine'\ndel In")
    assert kernel.evaluate("(exit, open, len(In) > 1)") == "('mine', 'mine', True)"


def test_patched_time_and_threading_are_survived(kernel: Client) -> None:
    kernel.run(
        "import time, threading\ntime.time = time.monotonic = lambda: 0\nthreading.Thread = None\ntime.sleep = None"
    )
    assert kernel.run("6 * 7").text == "42"
    kernel.run("import asyncio\nawait asyncio.sleep(0)")


def test_a_closed_or_replaced_event_loop_is_survived(kernel: Client) -> None:
    kernel.execute("import asyncio\nasyncio.set_event_loop(None)").ignore_outputs()
    assert kernel.run("await asyncio.sleep(0, 'fine')").text == "'fine'"
    kernel.execute("asyncio.get_event_loop().stop()").ignore_outputs()
    assert kernel.run("await asyncio.sleep(0, 'fine')").text == "'fine'"
    kernel.execute("asyncio.get_event_loop().close()").ignore_outputs()
    kernel.execute("pass").ignore_outputs()
    cell = kernel.execute("await asyncio.sleep(0, 'fine')")
    cell.ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


def test_garbage_collection_settings_and_tracing_are_the_users(kernel: Client) -> None:
    kernel.run("import gc, sys\ngc.disable()\nsys.setswitchinterval(1)\nsys.setprofile(lambda *a: None)")
    assert kernel.run("6 * 7").text == "42"
    kernel.run("sys.settrace(lambda *a: None)").ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


def test_a_changed_directory_or_user_mask_or_environment_is_kept(kernel: Client) -> None:
    kernel.run("import os\nos.mkdir('deeper')\nos.chdir('deeper')\nos.environ.clear()")
    assert kernel.run("os.path.basename(os.getcwd())").text == "'deeper'"
    kernel.run("os.rmdir('../deeper')")
    assert kernel.run("6 * 7").text == "42"


# --- signals ---------------------------------------------------------------------------------------------------------


def test_a_guest_that_ignores_sigint_is_replaced_by_a_second_interrupt(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.interrupt_grace_ms=300")
    cell = kernel.start(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    )
    cell.wait_stream("deaf\n")
    kernel.interrupt()
    kernel.pass_time(0.5)
    kernel.interrupt()
    cell.wait()
    assert cell.status == "error"
    cell.ignore_outputs()
    assert kernel.process.is_alive()
    assert kernel.run("6 * 7").text == "42"


def test_a_guests_own_sigint_handler_is_called(kernel: Client) -> None:
    cell = kernel.start(
        "import signal, time\nold = signal.signal(signal.SIGINT, lambda *a: print('mine', flush=True))\n"
        "print('waiting', flush=True)\ntime.sleep(1)\nsignal.signal(signal.SIGINT, old);"
    )
    cell.wait_stream("waiting\n")
    kernel.interrupt()
    cell.wait_stream("mine\n")
    cell.wait()
    cell.ignore_outputs()


def test_changed_signal_handlers_do_not_spoil_the_next_interrupt(kernel: Client) -> None:
    """A handler that a cell left behind: the next cell is interrupted, at once or by the second interrupt."""
    kernel.run("import signal\n_ = signal.signal(signal.SIGINT, signal.default_int_handler)")
    cell = kernel.start("import time\nprint('running', flush=True)\ntime.sleep(600)")
    cell.wait_stream("running\n")
    kernel.interrupt()
    cell.claim("stream")
    assert cell.ename == "KeyboardInterrupt"
    assert kernel.run("6 * 7").text == "42"


@pytest.mark.parametrize("name", ["SIGALRM", "SIGUSR1", "SIGCHLD", "SIGPIPE", "SIGTERM", "SIGPROF"])
def test_signals_of_the_guest_are_the_guests(name: str, kernel: Client) -> None:
    code = (
        f"import os, signal\nhits = []\n_ = signal.signal(signal.{name}, lambda *a: hits.append(1))\n"
        f"os.kill(os.getpid(), signal.{name})\n"
    )
    kernel.run(code)
    assert kernel.evaluate("len(hits) >= 1") == "True"
    assert kernel.run("import subprocess\nsubprocess.run(['true']).returncode").text == "0"


def test_a_stopped_worker_is_replaced_by_interrupts(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.interrupt_grace_ms=300")
    cell = kernel.start("import os, signal\nprint('stopping', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)")
    cell.wait_stream("stopping\n")
    kernel.ask("kernel_info_request")
    kernel.interrupt()
    kernel.pass_time(0.5)
    kernel.interrupt()
    cell.wait().ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


# --- threads ---------------------------------------------------------------------------------------------------------


def test_threads_that_print_after_the_cell_are_heard_and_hold_nothing(kernel: Client) -> None:
    code = (
        "import threading\n"
        "go = threading.Event()\n"
        "def late(n):\n"
        "    go.wait(60)\n"
        "    print(f'late {n}\\n', end='', flush=True)\n"
        "threads = [threading.Thread(target=late, args=(n,)) for n in range(20)]\n"
        "for thread in threads: thread.start()"
    )
    cell = kernel.run(code)
    kernel.run("go.set()\nfor thread in threads: thread.join()")
    kernel.wait_until(lambda: cell.late_stream().count("late") == 20, "the threads' lines")
    assert sorted(cell.late_stream().split()) == sorted(["late"] * 20 + [str(n) for n in range(20)])


def test_a_thread_that_never_ends_does_not_keep_the_kernel(kernel: Client) -> None:
    kernel.run("import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()")
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()


def test_a_thread_that_raises_is_told_on_stderr(kernel: Client) -> None:
    cell = kernel.run("import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()")
    assert "ZeroDivisionError" in cell.stderr


def test_threads_that_spin_do_not_starve_the_kernel(kernel: Client) -> None:
    kernel.run(
        "import threading\n"
        "spinning = True\n"
        "def spin():\n"
        "    while spinning: pass\n"
        "for _ in range(3): threading.Thread(target=spin).start()"
    )
    for number in range(5):
        assert kernel.run(f"{number}").text == str(number)
    kernel.run("spinning = False")


def test_hundreds_of_tasks_that_print_are_heard(kernel: Client) -> None:
    code = (
        "import asyncio\n"
        "async def speak(n):\n"
        "    await asyncio.sleep(0)\n"
        "    print(n)\n"
        "await asyncio.gather(*(speak(n) for n in range(500)));"
    )
    cell = kernel.run(code)
    assert sorted(map(int, cell.stdout.split())) == list(range(500))
    cell.claim("execute_result")


# --- modules ---------------------------------------------------------------------------------------------------------

SHADOWED = [
    "asyncio",
    "queue",
    "random",
    "json",
    "logging",
    "types",
    "signal",
    "select",
    "zmq",
    "IPython",
    "code",
    "struct",
]


@pytest.mark.parametrize("name", SHADOWED)
def test_a_file_of_the_user_with_the_name_of_a_library_does_not_break_the_kernel(
    name: str, start_kernel: KernelStarter
) -> None:
    cwd = start_kernel.directory / "notebooks"
    cwd.mkdir()
    (cwd / f"{name}.py").write_text("raise RuntimeError('the file of the user')\n")
    kernel = start_kernel(cwd=cwd)
    assert kernel.run("6 * 7").text == "42"
    assert kernel.execute("1 / 0").ename == "ZeroDivisionError"
    kernel.execute("import os; os._exit(1)").ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


def test_removed_modules_are_survived(kernel: Client) -> None:
    kernel.execute(
        "import sys\n"
        "for name in list(sys.modules):\n"
        "    if name.split('.')[0] in ('json', 'asyncio', 'traceback'): del sys.modules[name]"
    ).ignore_outputs()
    assert kernel.run("6 * 7").text == "42"
    assert kernel.execute("1 / 0").ename == "ZeroDivisionError"


def test_an_import_hook_that_raises_is_survived(kernel: Client) -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, *a): raise RuntimeError('no imports')\n"
        "sys.meta_path.insert(0, Refuse())"
    )
    kernel.run(code)
    assert kernel.run("6 * 7").text == "42"
    kernel.execute("1 / 0").ignore_outputs()
    kernel.run("_ = sys.meta_path.pop(0)").ignore_outputs()
    assert kernel.run("6 * 7").text == "42"


# --- the shell -------------------------------------------------------------------------------------------------------


def test_a_transformer_an_event_and_a_hook_that_raise_are_survived(kernel: Client) -> None:
    kernel.run("ip = get_ipython()\ndef bad(*a): raise RuntimeError('bad hook')")
    for line in (
        "ip.input_transformers_cleanup.append(bad)",
        "ip.events.register('pre_run_cell', bad)",
        "ip.events.register('post_run_cell', bad)",
        "ip.display_formatter.formatters['text/html'].for_type(int, bad)",
        "ip.display_pub.register_hook(bad)",
        "ip.set_custom_exc((ZeroDivisionError,), bad)",
    ):
        kernel.execute(line).ignore_outputs()
        kernel.execute("1 / 0").ignore_outputs()
        assert kernel.execute("print('x')").ignore_outputs().reply is not None
        kernel.execute("%reset --worker").ignore_outputs()
        kernel.execute("ip = get_ipython()\ndef bad(*a): raise RuntimeError('bad hook')").ignore_outputs()


CLEAR_ALL_OBJECTS_OF_THE_WORKER = (
    "import gc\n"
    "for o in gc.get_objects():\n"
    "    if type(o).__module__.startswith('capsule_kernel'):\n"
    "        try: o.__dict__.clear()\n"
    "        except Exception: pass"
)


def test_internals_of_the_worker_that_a_guest_breaks_cost_at_most_the_worker(kernel: Client) -> None:
    for line in (
        "get_ipython().kernel = None",
        "get_ipython().display_pub = None",
        "get_ipython().displayhook = None",
        "get_ipython().events = None",
        "get_ipython().compile = None",
        "get_ipython().run_cell = None",
        CLEAR_ALL_OBJECTS_OF_THE_WORKER,
    ):
        kernel.execute(line, timeout_s=20).ignore_outputs()
        kernel.execute("1", timeout_s=20).ignore_outputs()
        kernel.execute("import os; os._exit(0)", timeout_s=20).ignore_outputs()
        kernel.interrupt()
        assert kernel.execute("6 * 7", timeout_s=20).ignore_outputs().reply is not None
