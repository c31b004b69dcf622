"""Guests that start processes: children that print, flood, outlive their cell; forks that return into the cell.

Issue, section "Tests": prints to fd 1 from a child, floods stderr, forks, `os.system('echo')` 200 times before idle, a
`multiprocessing` child that outlives the cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kernel.starter import only_capsule

if TYPE_CHECKING:
    from tests.kernel.client import Client
    from tests.kernel.exchange import Cell

pytestmark = only_capsule("descriptors are captured; workers are replaced")


def test_a_child_that_prints_to_descriptor_one_is_heard(shared_kernel: Client) -> None:
    code = "import subprocess, sys\n_ = subprocess.run([sys.executable, '-c', 'print(6 * 7)'], check=True)"
    assert shared_kernel.run(code).stdout == "42\n"


def test_os_system_is_heard_before_idle_200_times(shared_kernel: Client) -> None:
    shared_kernel.run("import os")
    for number in range(200):
        assert shared_kernel.run(f"_ = os.system('echo {number}')").stdout == f"{number}\n"


def test_a_child_that_floods_stderr_stalls_nothing(shared_kernel: Client) -> None:
    code = (
        "import subprocess\n"
        "_ = subprocess.run(['sh', '-c', 'head -c 8000000 /dev/zero | tr \"\\\\0\" x >&2'], check=True)"
    )
    assert shared_kernel.run(code, timeout_s=30).stderr == "x" * 8_000_000
    assert shared_kernel.run("6 * 7").text == "42"


def test_a_cell_that_floods_stderr_stalls_nothing(shared_kernel: Client) -> None:
    code = (
        "import os, sys\n"
        "for _ in range(2000):\n"
        "    _ = os.write(2, b'x' * 999 + b'\\n')\n"
        "    print('y' * 999, file=sys.stderr)"
    )
    text = shared_kernel.run(code, timeout_s=30).stderr
    assert text.count("x") == text.count("y") == 2000 * 999


def test_children_in_the_background_flood_while_cells_run(shared_kernel: Client) -> None:
    cell = shared_kernel.run(
        "import subprocess\nflood = subprocess.Popen(['sh', '-c', 'yes flood | head -c 20000000'])"
    )
    for number in range(10):
        assert shared_kernel.run(f"{number}").ignore_outputs().status == "ok"
    last = shared_kernel.run("_ = flood.wait()")
    shared_kernel.drain()
    for exchange in shared_kernel.exchanges.values():
        exchange.ignore_outputs()
    assert cell.status == last.status == "ok"
    assert shared_kernel.run("6 * 7").ignore_outputs().status == "ok"


def only_warns_of_forks(cell: Cell) -> None:
    """Python itself warns of a fork beside threads, and a kernel has threads."""
    assert "Error" not in cell.stderr
    assert not cell.stderr or "DeprecationWarning" in cell.stderr


def test_a_fork_that_ends_at_once_changes_nothing(shared_kernel: Client) -> None:
    cell = shared_kernel.run("import os\npid = os.fork()\nif pid == 0:\n    os._exit(3)\nos.waitpid(pid, 0)[1]")
    assert cell.text == "768"
    only_warns_of_forks(cell)


def test_a_fork_that_runs_on_in_the_cell_does_not_speak_for_the_kernel(kernel: Client) -> None:
    """The child returns from the cell's code into the kernel: it must end there, not serve or answer."""
    cell = kernel.run(
        "import os\nparent = os.getpid()\npid = os.fork()\nif pid: _ = os.waitpid(pid, 0)\nos.getpid() == parent"
    )
    assert cell.text == "True"
    cell.claim("stream")
    assert kernel.run("6 * 7").text == "42"
    assert kernel.evaluate("os.getpid() == parent") == "True"


def test_a_fork_that_raises_does_not_speak_for_the_kernel(kernel: Client) -> None:
    cell = kernel.run(
        "import os\npid = os.fork()\nif pid == 0:\n    raise ValueError('in the child')\n_ = os.waitpid(pid, 0)"
    )
    cell.claim("stream")
    assert cell.claim("error") == []
    assert kernel.run("6 * 7").text == "42"


def test_a_forks_prints_are_heard(shared_kernel: Client) -> None:
    code = (
        "import os, sys\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    print('child')\n"
        "    sys.stdout.flush()\n"
        "    os._exit(0)\n"
        "_ = os.waitpid(pid, 0)\n"
        "print('parent')"
    )
    cell = shared_kernel.run(code)
    assert sorted(cell.stdout.splitlines()) == ["child", "parent"]
    only_warns_of_forks(cell)


def test_forks_that_leave_without_a_flush_lose_no_line_and_tear_none(shared_kernel: Client) -> None:
    code = (
        "import os\n"
        "pids = []\n"
        "for number in range(4):\n"
        "    pids.append(os.fork())\n"
        "    if pids[-1] == 0:\n"
        "        for line in range(100): print('child', number, 'line', line)\n"
        "        os._exit(0)\n"
        "for pid in pids: _ = os.waitpid(pid, 0)"
    )
    cell = shared_kernel.run(code)
    expected = [f"child {number} line {line}" for number in range(4) for line in range(100)]
    assert sorted(cell.stdout.splitlines()) == sorted(expected)
    only_warns_of_forks(cell)


def test_a_fork_that_lives_on_does_not_hold_the_cell(kernel: Client) -> None:
    cell = kernel.run("import os, time\nchild = os.fork()\nif child == 0:\n    time.sleep(600)\n    os._exit(0)")
    cell.claim("stream")
    assert kernel.run("6 * 7").text == "42"
    kernel.run("import signal\nos.kill(child, signal.SIGKILL)\n_ = os.waitpid(child, 0)")


def test_a_fork_from_an_awaiting_cell_changes_nothing(kernel: Client) -> None:
    code = (
        "import asyncio, os\n"
        "await asyncio.sleep(0)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(0)\n"
        "_ = os.waitpid(pid, 0)\n"
        "await asyncio.sleep(0.01, 'fine')"
    )
    cell = kernel.run(code)
    assert cell.text == "'fine'"
    cell.claim("stream")
    assert kernel.run("await asyncio.sleep(0.01, 'loop is well')").text == "'loop is well'"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_prints_and_returns(method: str, kernel: Client) -> None:
    (kernel.process.cwd / "jobs.py").write_text("def job(n):\n    print('job', n, flush=True)\n    return n * 2\n")
    code = (
        "import multiprocessing, jobs\n"
        f"with multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
        "    got = pool.map(jobs.job, [1, 2, 3])\n"
        "got"
    )
    cell = kernel.run(code, timeout_s=30)
    assert cell.text == "[2, 4, 6]"
    assert sorted(cell.stdout.splitlines()) == ["job 1", "job 2", "job 3"]
    cell.claim("stream")


def test_multiprocessing_fork_runs_functions_of_the_notebook(kernel: Client) -> None:
    kernel.run("def job(n):\n    return n + 1")
    code = (
        "import multiprocessing\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    got = pool.map(job, [1, 2])\n"
        "got"
    )
    cell = kernel.run(code, timeout_s=30)
    assert cell.text == "[2, 3]"
    cell.claim("stream")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_multiprocessing_child_outlives_its_cell_and_is_heard_later(method: str, kernel: Client) -> None:
    (kernel.process.cwd / "late.py").write_text(
        "def late(connection):\n"
        "    print('started', flush=True)\n"
        "    connection.recv()\n"
        "    print('after its cell', flush=True)\n"
        "    connection.send('done')\n"
    )
    code = (
        "import multiprocessing, late\n"
        f"context = multiprocessing.get_context({method!r})\n"
        "ours, theirs = context.Pipe()\n"
        "process = context.Process(target=late.late, args=(theirs,), daemon=True)\n"
        "process.start()"
    )
    first = kernel.run(code, timeout_s=30)
    second = kernel.run("ours.send('go')\ngot = ours.recv()\nprocess.join(10)", timeout_s=30)
    assert kernel.evaluate("(got, process.exitcode)") == "('done', 0)"
    kernel.drain()
    heard = "".join(cell.stream_so_far("stdout") + cell.late_stream() for cell in (first, second))
    for cell in (first, second):
        cell.claim("stream")
    assert sorted(heard.splitlines()) == ["after its cell", "started"]


def test_a_multiprocessing_child_that_never_ends_does_not_keep_the_kernel(kernel: Client) -> None:
    code = (
        "import multiprocessing, time\n"
        "process = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,))\n"
        "process.start()"
    )
    kernel.run(code).claim("stream")
    kernel.shutdown()
    kernel.process.wait_exit()
    kernel.process.wait_gone()


def test_a_process_pool_of_concurrent_futures_works(kernel: Client) -> None:
    kernel.run("def job(n):\n    return n + 1")
    code = (
        "import concurrent.futures, multiprocessing\n"
        "with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork')) as pool:\n"
        "    got = list(pool.map(job, range(4)))\n"
        "got"
    )
    cell = kernel.run(code, timeout_s=30)
    assert cell.text == "[1, 2, 3, 4]"
    cell.claim("stream")


def test_a_detached_daemon_does_not_hold_idle(kernel: Client) -> None:
    """It keeps descriptors 1 and 2 open for as long as it lives."""
    cell = kernel.run("_ = __import__('os').system('sleep 600 & echo $!')")
    pid = int(cell.stdout)
    assert kernel.run("6 * 7").text == "42"
    kernel.run(f"import os, signal\nos.kill({pid}, signal.SIGKILL)")


def test_a_fork_bomb_that_stays_small_is_survived(kernel: Client) -> None:
    code = (
        "import os\n"
        "for _ in range(100):\n"
        "    if os.fork() == 0:\n"
        "        os._exit(0)\n"
        "while True:\n"
        "    try: os.wait()\n"
        "    except ChildProcessError: break"
    )
    kernel.run(code, timeout_s=30).claim("stream")
    assert kernel.run("6 * 7").text == "42"


def test_exec_in_a_cell_is_a_death_like_any_other(kernel: Client) -> None:
    """The worker becomes another program: the kernel sees that it has lost it, or its end."""
    cell = kernel.execute("import os\nos.execvp('true', ['true'])")
    assert cell.status == "error"
    cell.ignore_outputs()
    assert kernel.run("6 * 7").text == "42"
