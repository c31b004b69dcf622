"""What a fork does not carry, with real libraries: put right, named, or refused beforehand; never a hang.

Issue: OpenMP pools, thread pools, foreign threads and locks, shared file offsets, sqlite files in a transaction, child
processes, exit handlers and temporary directories, MAP_SHARED, CUDA.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .starter import only_capsule
from .test_snapshots import REFUSED, SLEEPS, run_and_wait_for_snapshot, wait_for

if TYPE_CHECKING:
    from .client import Client
    from .starter import KernelStarter

pytestmark = only_capsule("its snapshots")

DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
LIBRARIES_S = 60.0
TAKEOVERS = 200
CHECK = "with lock: print(len(marks), int(array.sum()), next(numbers) >= 0)"


@pytest.fixture
def kernel(start_kernel: KernelStarter) -> Client:
    return start_kernel("--debug")


def snapshot(kernel: Client, code: str, *, sign: str = SLEEPS) -> None:
    run_and_wait_for_snapshot(kernel, code, sign=sign)


def die(kernel: Client) -> None:
    cell = kernel.execute(DIES)
    assert cell.ename == "WorkerDied"
    cell.claim("stream")


def test_openmp_pools_of_scikit_learn_work_before_and_after_takeovers(kernel: Client) -> None:
    fit = "labels = KMeans(3, n_init=2, random_state=0).fit_predict(data)"
    kernel.run("import numpy as np; from sklearn.cluster import KMeans", timeout_s=LIBRARIES_S)
    snapshot(kernel, f"data = np.random.default_rng(0).random((4000, 3)); {fit}; first = labels.copy()")
    for _ in range(3):
        die(kernel)
        snapshot(kernel, fit)
        assert kernel.evaluate("bool((labels == first).all())") == "True"


def test_blas_works_before_and_after_takeovers(kernel: Client) -> None:
    multiply = "product = a @ a; singular = np.linalg.svd(a, compute_uv=False)"
    kernel.run("import numpy as np", timeout_s=LIBRARIES_S)
    snapshot(kernel, f"a = np.random.default_rng(0).random((400, 400)); {multiply}; first = product.copy()")
    for _ in range(3):
        die(kernel)
        snapshot(kernel, multiply)
        assert kernel.evaluate("bool(np.allclose(product, first))") == "True"


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_lock_of_processes_that_the_dead_worker_held_is_free_again(kernel: Client, kind: str) -> None:
    kernel.run("import multiprocessing, os, signal, tqdm.std")
    snapshot(kernel, f"lock = multiprocessing.{kind}(); bars = tqdm.std.TqdmDefaultWriteLock()")
    cell = kernel.execute("bars.acquire(); lock.acquire(); os.kill(os.getpid(), signal.SIGKILL)")
    assert cell.ename == "WorkerDied"
    # And nothing is said of semaphores: a stream that no test asked for would be found at the end.
    assert kernel.evaluate("lock.acquire(timeout=5), lock.release()") == "(True, None)"
    assert kernel.evaluate("bars.mp_lock.acquire(timeout=5), bars.mp_lock.release()") == "(True, None)"


@pytest.mark.parametrize("then", ["", "lock.release(); "])
def test_a_lock_of_processes_that_is_held_stays_held(kernel: Client, then: str) -> None:
    snapshot(kernel, "import multiprocessing; lock = multiprocessing.RLock(); _ = lock.acquire()")
    cell = kernel.execute(then + DIES)
    assert cell.ename == "WorkerDied"
    assert kernel.evaluate("lock._semlock._is_zero(), lock.release()") == "(True, None)"


def test_a_queue_of_processes_is_as_full_as_it_is(kernel: Client) -> None:
    snapshot(kernel, "import multiprocessing; places = multiprocessing.BoundedSemaphore(1)")
    cell = kernel.execute(f"places.acquire(); {DIES}")
    assert cell.ename == "WorkerDied"
    assert kernel.evaluate("places.acquire(block=False)") == "False"


def test_a_thread_that_has_ended_is_in_the_way_no_longer(kernel: Client) -> None:
    """No cell runs meanwhile: it is tried again by itself."""
    code = "import threading, time; kept = [1]; threading.Thread(target=time.sleep, args=(1.2,)).start()"
    snapshot(kernel, code, sign=REFUSED)
    wait_for(kernel, SLEEPS, 1)
    die(kernel)
    assert kernel.evaluate("kept") == "[1]"


def test_a_fork_handler_that_hangs_costs_the_snapshots_and_nothing_else(kernel: Client) -> None:
    kernel.run("import os, time; _ = os.register_at_fork(after_in_child=lambda: time.sleep(600))")
    assert kernel.evaluate("6 * 7") == "42"
    kernel.run("kept = 1")
    wait_for(kernel, "not come back", 1)
    assert kernel.evaluate("kept") == "1"


def test_an_idle_pool_of_threads_works_after_a_takeover(kernel: Client) -> None:
    snapshot(
        kernel,
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\n"
        "print(list(pool.map(abs, [-1, -2, -3])))",
    )
    kernel.exchanges[next(reversed(kernel.exchanges))].claim("stream")
    die(kernel)
    assert kernel.run("print(pool.submit(abs, -4).result(5), list(pool.map(abs, range(-9, 0))))").stdout.startswith(
        "4 "
    )
    assert kernel.run("pool.shutdown(); print(pool._threads == set(), 'ended')").stdout.endswith("ended\n")


def test_a_pool_at_work_is_refused_with_the_reason(kernel: Client) -> None:
    kernel.run("import threading; from concurrent.futures import ThreadPoolExecutor; gate = threading.Event()")
    snapshot(kernel, "pool = ThreadPoolExecutor(1, 'own-pool'); work = pool.submit(gate.wait)", sign=REFUSED)
    assert "thread 'own-pool_0' runs" in kernel.process.log()
    snapshot(kernel, "gate.set(); _ = work.result()")


def test_a_foreign_thread_that_holds_a_lock_is_refused_with_the_reason(kernel: Client) -> None:
    snapshot(kernel, "import threading; lock = threading.Lock(); done = threading.Event(); value = 1")
    snapshot(
        kernel,
        "def hold():\n    with lock: done.wait()\n"
        "holder = threading.Thread(target=hold, name='holder'); holder.start(); value = 2",
        sign=REFUSED,
    )
    assert "thread 'holder' runs" in kernel.process.log()
    die(kernel)
    assert kernel.evaluate("value, lock.acquire(timeout=5)") == "(1, True)"


def test_a_files_offset_is_each_processs_own_and_its_content_is_named(kernel: Client, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    snapshot(kernel, f"file = open({str(path)!r}, 'w'); _ = file.write('ab'); file.flush()")
    snapshot(kernel, "import threading; t = threading.Event(); threading.Thread(target=t.wait).start()", sign=REFUSED)
    kernel.run("_ = file.write('cdef'); file.flush()")
    die(kernel)
    told = kernel.run("_ = file.write('XY'); file.flush()").stderr
    assert f"files were written to since, and keep that: {path}" in told
    # The position is that of the snapshot; what had been written after it is still there.
    assert path.read_text() == "abXYef"


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_in_a_transaction_is_refused_and_otherwise_works(
    kernel: Client, tmp_path: Path, journal: str
) -> None:
    path = tmp_path / "data.sqlite"
    kernel.run(
        f"import sqlite3; db = sqlite3.connect({str(path)!r}); db.execute('pragma journal_mode={journal}')\n"
        "db.execute('create table t (a)'); db.execute('insert into t values (1)'); db.commit()"
    ).claim("execute_result")
    snapshot(kernel, "_ = db.execute('insert into t values (2)')", sign=REFUSED)
    assert "locked for writing" in kernel.process.log()
    snapshot(kernel, "db.commit()")
    kernel.start(f"_ = db.execute('insert into t values (3)')\n{DIES}").wait().claim("error")
    rows = "[a for a, in db.execute('select a from t order by a')]"
    assert kernel.evaluate(rows) == "[1, 2]"
    kernel.run("_ = db.execute('insert into t values (4)'); db.commit()").ignore_outputs()
    assert kernel.evaluate(rows) == "[1, 2, 4]"
    assert kernel.evaluate("db.execute('pragma integrity_check').fetchone()") == "('ok',)"


def test_child_processes_are_named_and_do_not_report_success(kernel: Client) -> None:
    snapshot(kernel, "import subprocess; child = subprocess.Popen(['sleep', '61'])")
    die(kernel)
    assert "child processes were not carried over: sleep 61" in kernel.run("pass").stderr
    assert kernel.evaluate("child.poll()") == "-9"
    assert kernel.run("print(subprocess.run(['echo', 'again'], capture_output=True).stdout)").stdout == "b'again\\n'\n"


def test_temporary_directories_and_exit_handlers_are_the_last_workers(kernel: Client, tmp_path: Path) -> None:
    told = tmp_path / "told"
    snapshot(
        kernel,
        "import atexit, os, tempfile\nfolder = tempfile.TemporaryDirectory()\n"
        f"atexit.register(lambda: open({str(told)!r}, 'a').write('x'))",
    )
    for _ in range(3):
        snapshot(kernel, "value = 1")
    die(kernel)
    assert kernel.evaluate("os.path.isdir(folder.name)") == "True"
    folder = Path(kernel.evaluate("folder.name").strip("'"))
    kernel.shutdown()
    kernel.process.wait_exit()
    assert told.read_text() == "x"
    assert not folder.exists()
    kernel.abandon()


def test_memory_shared_with_a_file_is_named(kernel: Client, tmp_path: Path) -> None:
    path = tmp_path / "shared.bin"
    path.write_bytes(bytes(4096))
    snapshot(kernel, f"import mmap; file = open({str(path)!r}, 'r+b'); shared = mmap.mmap(file.fileno(), 0)")
    kernel.execute(f"shared[0] = 7\n{DIES}").claim("error")
    told = kernel.run("print(shared[0])")
    assert told.stdout == "7\n"
    assert "memory that is shared with files or other processes is not gone back" in told.stderr
    assert str(path) in told.stderr


def test_polars_is_refused_with_the_reason(kernel: Client) -> None:
    kernel.run("try:\n    import polars\nexcept ImportError:\n    import sys; polars = sys.modules['polars'] = sys")
    snapshot(kernel, "value = 1", sign=REFUSED)
    assert "polars keeps a thread pool" in kernel.process.log()


def test_native_threads_of_known_pools_are_refused(kernel: Client) -> None:
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b'tokio-rt-worker')"
    kernel.run(
        "import threading, _thread; gate, named = threading.Lock(), threading.Event(); _ = gate.acquire()\n"
        f"def run():\n    {rename}; named.set(); gate.acquire()"
    )
    # Not in `threading.enumerate`, as with a thread that a library starts in C.
    snapshot(kernel, "_ = _thread.start_new_thread(run, ()); _ = named.wait()", sign=REFUSED)
    assert "tokio" in kernel.process.log()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_hundred_deaths_at_random_moments_lose_no_state_and_hang_nowhere(kernel: Client) -> None:
    moments = random.Random(4)
    kernel.run("import numpy as np, os, signal, threading, asyncio", timeout_s=LIBRARIES_S)
    snapshot(kernel, "numbers = iter(range(10**9)); array = np.arange(1000); marks = [0]; lock = threading.Lock()")
    for number in range(1, TAKEOVERS + 1):
        pid = int(kernel.evaluate("os.getpid()"))
        cell = kernel.start(
            f"marks.append({number})\n"
            "for _ in range(2000): _ = array @ array\n"
            "await asyncio.sleep(0.001)\n"
            "with lock: _ = next(numbers)"
        )
        kernel.pass_time(moments.uniform(0, 0.012))
        os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        cell.wait(10)
        cell.ignore_outputs()
        # The cell has ended before its worker died, or has died with it, or was run by the next one.
        check = kernel.execute(CHECK)
        assert time.monotonic() - begun < 10
        if check.status == "error":
            check.ignore_outputs()
            check = kernel.execute(CHECK)
        check.claim("stream")
        assert check.stdout.endswith(" 499500 True\n"), number
    assert kernel.evaluate("marks == sorted(set(marks)) and marks[0] == 0") == "True"
    assert len(kernel.process.processes()) < 15
    wait_for(kernel, SLEEPS, 1)
