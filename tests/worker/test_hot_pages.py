"""The pages that cells write to again and again are the process's own again before the next cell runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, json, mmap, os, resource, signal
from capsule_kernel.worker.hot_pages import HotPages

PAGE = mmap.PAGESIZE
memory = mmap.mmap(-1, 3 * COUNT * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = b"x" * len(memory)
copy = bytearray(memory)
libc = ctypes.CDLL(None)
libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
pages = HotPages(libc.madvise)
children = []


def fork():
    pages.learn_when_due()
    pid = os.fork()
    if not pid:
        signal.pause()
    children.append(pid)
    pages.begin()


def write(count):
    for number in range(count):
        memory[number * 3 * PAGE] = copy[number * 3 * PAGE] = 121
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
write(COUNT)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fork()
cold = write(COUNT) - before
fork()
steps = 0
while pages.is_waiting:
    pages.touch()
    steps += 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
warm = write(COUNT) - before
same = memory[:] == copy
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(json.dumps([cold, warm, steps, same]))
"""


def run(count: int) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("COUNT", str(count))],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    found: list[int] = json.loads(done.stdout)
    return found


def has_call() -> bool:
    """Whether the system has MADV_POPULATE_WRITE."""
    code = (
        "import ctypes, mmap, sys\n"
        "libc = ctypes.CDLL(None); m = mmap.mmap(-1, 4096); a = ctypes.c_char.from_buffer(m)\n"
        "libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]\n"
        "sys.exit(libc.madvise(ctypes.addressof(a), 4096, 23) != 0)"
    )
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


@pytest.mark.skipif(not has_call(), reason="the system has no MADV_POPULATE_WRITE (Linux 5.14)")
def test_what_was_written_after_one_fork_is_copied_after_the_next_and_not_by_the_next_write() -> None:
    cold, warm, steps, same = run(200)
    assert cold >= 400  # the pages and those of the copy
    assert warm < 100
    assert steps > 1
    assert same


FILE = """
import ctypes, mmap, os, tempfile
from capsule_kernel.worker.hot_pages import HotPages
asked = []
pages = HotPages(lambda *args: asked.append(args) or 0)
memory = mmap.mmap(-1, 64 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
pages.learn_when_due()
pages._known = [(address, mmap.PAGESIZE, "00:00 0")]
libc = ctypes.CDLL(None)
libc.mmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mmap.restype = ctypes.c_size_t
with tempfile.TemporaryFile() as file:
    file.truncate(64 * mmap.PAGESIZE)
    for kind in KINDS:
        fixed = mmap.MAP_PRIVATE if kind == "private" else mmap.MAP_SHARED
        if kind != "same":
            assert libc.mmap(address, 64 * mmap.PAGESIZE, 3, fixed | 0x10, file.fileno(), 0) == address
        pages.begin()
        while pages.is_waiting:
            pages.touch()
    print(len(asked), os.fstat(file.fileno()).st_blocks, flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize(("kind", "expected"), [("same", "1 0"), ("private", "0 0"), ("shared", "0 0")])
def test_what_is_mapped_there_later_is_left_alone(kind: str, expected: str) -> None:
    program = FILE.replace("KINDS", repr([kind]))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == expected


@pytest.mark.skipif(not has_call(), reason="the system has no MADV_POPULATE_WRITE (Linux 5.14)")
def test_more_than_a_cells_own_is_not_learned() -> None:
    """One cell has worked on much: the next one may work on something else."""
    _, _, steps, same = run(1100)
    assert same
    assert steps == 0
