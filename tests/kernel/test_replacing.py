"""Issue, point 10: replacing the worker inside the living kernel, and restarts by the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .starter import only_capsule

if TYPE_CHECKING:
    from .client import Client
    from .starter import KernelStarter

pytestmark = only_capsule("it has one process")


def worker_pid(kernel: Client) -> int:
    return int(kernel.evaluate("__import__('os').getpid()"))


@pytest.mark.parametrize("spares", [0, 1, 2])
def test_reset_worker_gives_a_new_worker_in_the_same_kernel(spares: int, start_kernel: KernelStarter) -> None:
    kernel = start_kernel(f"--CapsuleKernel.spare_workers={spares}")
    kernel.run("gone = 1")
    old = worker_pid(kernel)
    cell = kernel.run("%reset --worker")
    cell.claim("stream", "display_data")
    assert kernel.execute("gone").ename == "NameError"
    assert worker_pid(kernel) != old
    assert kernel.process.is_alive()


def test_counts_go_on_after_a_reset(kernel: Client) -> None:
    kernel.run("pass")
    cell = kernel.run("%reset --worker")
    cell.claim("stream", "display_data")
    assert cell.execution_count == 2
    assert kernel.run("pass").execution_count == 3


def test_a_reset_aborts_nothing(kernel: Client) -> None:
    reset = kernel.start("%reset --worker")
    queued = kernel.start("'ran'")
    reset.wait().succeeded().claim("stream", "display_data")
    assert queued.wait().text == "'ran'"


def test_a_reset_runs_exit_handlers_of_the_old_worker(kernel: Client) -> None:
    trace = kernel.process.directory / "trace.txt"
    kernel.run(f"import atexit, pathlib\n_ = atexit.register(pathlib.Path({str(trace)!r}).write_text, 'ran')")
    kernel.run("%reset --worker").claim("stream", "display_data")
    kernel.run("pass")
    kernel.shutdown()
    kernel.process.wait_exit()
    assert trace.read_text() == "ran"


def test_what_exit_handlers_print_belongs_to_the_reset(kernel: Client) -> None:
    kernel.run("import atexit\n_ = atexit.register(print, 'last words')")
    cell = kernel.run("%reset --worker")
    assert kernel.run("6 * 7").text == "42"
    assert cell.wait_any_stream("last words\n") == "last words\n"


def test_exit_handlers_that_hang_do_not_keep_the_next_worker_away(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.shutdown_grace_ms=200")
    kernel.run("import atexit, time\n_ = atexit.register(time.sleep, 600)")
    old = worker_pid(kernel)
    kernel.run("%reset --worker").claim("stream", "display_data")
    assert worker_pid(kernel) != old


def test_many_resets_leave_no_process_behind(kernel: Client) -> None:
    for _ in range(5):
        kernel.run("%reset --worker").claim("stream", "display_data")
        assert kernel.run("6 * 7").text == "42"
    # Front, zygote, worker and spare; one more may be on its way out or in.
    assert len(kernel.process.processes()) <= 6


def test_percent_reset_without_the_option_stays_ipythons(kernel: Client) -> None:
    kernel.run("gone = 1")
    pid = worker_pid(kernel)
    kernel.run("%reset -f").claim("stream")
    assert kernel.execute("gone").ename == "NameError"
    assert worker_pid(kernel) == pid


def test_new_workers_differ_in_their_random_numbers(kernel: Client) -> None:
    """Workers are forks of one process: each must have random numbers of its own."""
    code = "import random, numpy.random\n(random.random(), numpy.random.random())"
    first = kernel.run(code, timeout_s=30).text
    kernel.run("%reset --worker").claim("stream", "display_data")
    second = kernel.run(code, timeout_s=30).text
    kernel.run("%reset --worker").claim("stream", "display_data")
    third = kernel.run(code, timeout_s=30).text
    assert len({first, second, third}) == 3
    assert len({text.split(",")[0] for text in (first, second, third)}) == 3


def test_with_numpy_preloaded_random_numbers_differ_too(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.preload=['numpy']")
    code = "import numpy.random\nnumpy.random.random()"
    first = kernel.run(code, timeout_s=30).text
    kernel.run("%reset --worker").claim("stream", "display_data")
    assert kernel.run(code, timeout_s=30).text != first
