"""How much memory snapshots may hold: figures in, how many must end out; and where the figures come from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from capsule_kernel.sessions import memory
from capsule_kernel.sessions.budget import Held, Room, count_to_drop

if TYPE_CHECKING:
    from pathlib import Path

MB = 1 << 20
PLENTY = Room(usable_bytes=1000 * MB, left_bytes=800 * MB)
NO_LIMIT = 9223372036854771712


@pytest.mark.parametrize(
    ("private", "total", "dropped"),
    [
        ([], 0, 0),
        ([0, 0, 0], 0, 0),
        ([100, 100, 50], 250, 0),
        ([100, 100, 51], 251, 1),
        ([10, 100, 200], 310, 2),
        ([10, 100, 600], 710, 3),
        # Several hold the same pages: the oldest ends, and then it is measured again.
        ([0, 0, 0], 300, 1),
        ([5, 0, 0], 300, 2),
    ],
)
def test_the_oldest_end_until_a_quarter_is_held(private: list[int], total: int, dropped: int) -> None:
    held = Held(private_bytes=[each * MB for each in private], total_bytes=total * MB)
    assert count_to_drop(held, PLENTY, 0) == dropped


@pytest.mark.parametrize(("cap", "dropped"), [(0, 0), (200, 0), (150, 1), (50, 2), (5000, 0)])
def test_a_configured_cap_can_only_be_less(cap: int, dropped: int) -> None:
    held = Held(private_bytes=[100 * MB, 100 * MB], total_bytes=200 * MB)
    assert count_to_drop(held, PLENTY, cap * MB) == dropped
    more = Held(private_bytes=[100 * MB, 200 * MB], total_bytes=300 * MB)
    assert count_to_drop(more, PLENTY, 5000 * MB) == 1


@pytest.mark.parametrize(("left", "dropped"), [(800, 0), (101, 0), (99, 2), (41, 2), (39, 3), (0, 3)])
def test_little_memory_left_ends_all_but_the_newest_and_then_that(left: int, dropped: int) -> None:
    held = Held(private_bytes=[MB, MB, MB], total_bytes=3 * MB)
    assert count_to_drop(held, Room(usable_bytes=1000 * MB, left_bytes=left * MB), 0) == dropped


def machine(root: Path, files: dict[str, str]) -> str:
    for name, text in {"proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 5000 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_without_limits_the_machine_is_the_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/self/cgroup": "0::/user\n", "sys/fs/cgroup/user/memory.max": "max\n"})
    assert memory.room(root) == Room(usable_bytes=8000 * 1024, left_bytes=5000 * 1024)


def test_the_smallest_limit_up_the_tree_counts_and_caches_are_left(tmp_path: Path) -> None:
    stat = "anon 5\ninactive_file 1000000\n"
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/inner/memory.max": "max\n",
            "sys/fs/cgroup/outer/memory.max": "4000000\n",
            "sys/fs/cgroup/outer/memory.current": "3500000\n",
            "sys/fs/cgroup/outer/memory.stat": stat,
        },
    )
    assert memory.room(root) == Room(usable_bytes=4_000_000, left_bytes=1_500_000)


def test_version_one_of_control_groups_is_read_as_well(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/memory/box"
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "5:devices:/\n4:memory:/box\n0::/\n",
            f"{folder}/memory.limit_in_bytes": "2000000\n",
            f"{folder}/memory.usage_in_bytes": "1900000\n",
            f"{folder}/memory.stat": "total_inactive_file 100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{NO_LIMIT}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1900000\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
        },
    )
    assert memory.room(root) == Room(usable_bytes=2_000_000, left_bytes=200_000)


def test_what_a_fork_holds_after_its_parent_wrote_is_found() -> None:
    size = 32 * MB
    data = bytearray(b"a") * size
    ready, release = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.write(ready[1], b"x")
        os.read(release[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    before = memory.held(os.getpid(), [pid])
    data[:] = bytes(size)
    after = memory.held(os.getpid(), [pid])
    os.write(release[1], b"x")
    os.waitpid(pid, 0)
    for descriptor in (*ready, *release):
        os.close(descriptor)
    assert after.private_bytes[0] - before.private_bytes[0] > 0.9 * size
    assert after.total_bytes >= after.private_bytes[0]


def test_a_process_that_has_ended_holds_nothing() -> None:
    assert memory.held(os.getpid(), [2**22 + 1]).private_bytes == [0]
