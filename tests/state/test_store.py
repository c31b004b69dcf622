"""The store under what happens to stores: kills, damage, full and read-only disks, caps, company."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from capsule_kernel.errors import (
    CheckpointTooLarge,
    ChunksMissing,
    ManifestRejected,
    StateError,
    StoreDamaged,
    StoreUnavailable,
)
from capsule_kernel.state import retention, sweep
from capsule_kernel.state.capture import capture
from capsule_kernel.state.filesystem import network_file_system
from capsule_kernel.state.manifest import About, Captured, open_signed, sign
from capsule_kernel.state.pickler import Environment
from capsule_kernel.state.store import Store
from capsule_kernel.state.writer import CheckpointWriter
from tests.state.checkpoints import load, load_with_report, readable, take

LONG = random.Random(1).randbytes(3_000_000)
OTHER = random.Random(2).randbytes(3_000_000)


def test_a_store_is_private_to_its_user(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        take(store, {"x": 1})
        for path in [store.folder, *store.folder.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_what_was_stored_is_there_after_the_store_was_closed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        number = take(store, {"x": [1, 2], "b": LONG})
    with Store(tmp_path) as store:
        assert load(store, number) == {"x": [1, 2], "b": LONG}
        assert "1 checkpoints" in repr(store)


def test_a_store_that_was_closed_meanwhile_is_not_called_damaged(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        take(store, {"x": 1})
    with pytest.raises(StoreUnavailable, match="closed"):
        store.checkpoints()


def test_the_same_bytes_are_stored_once_for_all_sessions(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        take(store, {"b": LONG}, session="one")
        size = store.size_bytes()
        number = take(store, {"c": LONG}, session="two")
        assert store.size_bytes() - size < 8192
        assert load(store, number) == {"c": LONG}


def test_what_a_new_process_takes_as_known_is_what_the_last_one_stored(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        take(store, {"b": LONG})
    with Store(tmp_path) as store:
        known = store.known("s")
        values = {"b": LONG}
        sent = list(capture(values, environment=Environment(engine={"namespace": values}), known=known))
        assert sum(len(item.data) for item in sent if not isinstance(item, Captured)) < 16_384


def test_another_users_checkpoint_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "mine") as mine:
        number = take(mine, {"x": 1})
        manifest = mine.manifest(number)
        with pytest.raises(ManifestRejected, match="signature is not this user's"):
            open_signed(sign(manifest, b"another key"), mine.key, "1")
        with pytest.raises(ManifestRejected, match="format 9"):
            open_signed(b"\x00\x09" + sign(manifest, mine.key)[2:], mine.key, "1")
    (tmp_path / "mine" / "key").write_bytes(b"k" * 32)
    with Store(tmp_path / "mine") as mine, pytest.raises(ManifestRejected, match="checkpoints that you took"):
        mine.manifest(number)


def test_a_damaged_part_costs_what_it_holds_and_nothing_else(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        number = take(store, {"a": LONG, "b": OTHER, "x": 1, "l": [2]})
        pack = next(store.pack_folder.iterdir())
    data = bytearray(pack.read_bytes())
    place = data.find(LONG[1000:1100])
    data[place] ^= 1
    pack.write_bytes(data)
    with Store(tmp_path) as store:
        values, report = load_with_report(store, number)
        assert values == {"b": OTHER, "x": 1, "l": [2]}
        assert report.names["a"].status == "lost"
        assert "bytes are not what was written" in report.names["a"].reason


def test_a_truncated_pack_costs_what_is_cut_off(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        first = take(store, {"a": LONG})
        pack = next(store.pack_folder.iterdir())
        size = pack.stat().st_size
        second = take(store, {"a": LONG, "b": OTHER})
    os.truncate(pack, size + 1000)
    with Store(tmp_path) as store:
        assert load(store, first) == {"a": LONG}
        with pytest.raises(StoreDamaged):
            store.manifest(second)
        with pytest.raises(ChunksMissing):
            take(store, {"a": LONG, "b": OTHER})
        third = take(store, {"a": LONG, "b": OTHER})
        assert load(store, third) == {"a": LONG, "b": OTHER}


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "gone"])
def test_a_damaged_index_is_made_anew_from_the_packs(tmp_path: Path, damage: str) -> None:
    with Store(tmp_path) as store:
        numbers = [take(store, {"a": LONG, "n": n}, label="kept" if n == 1 else "") for n in range(5)]
        store.delete(numbers[:1])
        listed = store.checkpoints()
    index = tmp_path / "index.sqlite3"
    for extra in tmp_path.glob("index.sqlite3-*"):
        extra.unlink()
    if damage == "empty":
        index.write_bytes(b"")
    elif damage == "garbage":
        index.write_bytes(b"not a database" * 1000)
    elif damage == "truncated":
        os.truncate(index, index.stat().st_size // 2)
    else:
        index.unlink()
    with Store(tmp_path) as store:
        assert "made anew with 4 checkpoints" in store.repairs[0]
        assert store.checkpoints() == listed
        assert readable(store) == numbers[1:]
        assert load(store, take(store, {"a": LONG})) == {"a": LONG}
    assert list(tmp_path.glob("damaged-*")) or damage == "gone"


_WRITE_FOR_EVER = """
import random, sys
from pathlib import Path
from capsule_kernel.state.store import Store
from tests.state.checkpoints import take
store = Store(Path(sys.argv[1]))
for n in range(10_000):
    number = take(store, {"n": n, "b": random.randbytes(300_000), "l": [n] * 1000})
    print(number, flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_at_any_moment_loses_nothing_that_was_committed(tmp_path: Path, seed: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert writer.stdout is not None
    with writer:
        committed = [int(writer.stdout.readline()) for _ in range(3 + seed)]
        # Anywhere in the next commit: so many bytes of it are in the pack.
        pack = next((tmp_path / "packs").iterdir())
        size = pack.stat().st_size
        while pack.stat().st_size < size + 60_000 * seed:
            pass
        os.kill(writer.pid, signal.SIGKILL)
        committed += [int(line) for line in writer.stdout if line.strip()]
    with Store(tmp_path) as store:
        assert set(committed) <= set(readable(store))
        assert len(readable(store)) == len(store.checkpoints())
        assert not store.repairs
        take(store, {"x": 1})
        sweep.sweep(store)
        assert set(committed) <= set(readable(store))


_WRITE_TOO_MUCH = """
import random, resource, signal, sys
from pathlib import Path
from capsule_kernel.errors import StoreUnavailable
from capsule_kernel.state.store import Store
from tests.state.checkpoints import load, take
store = Store(Path(sys.argv[1]))
values = {"x": 1}
number = take(store, values)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    take(store, {"b": random.randbytes(5_000_000)})
except StoreUnavailable as exc:
    print(exc)
assert load(store, number) == {"x": 1}
number = take(store, {"x": 2})
assert load(store, number) == {"x": 2}
print("and on")
"""


def test_when_the_disk_takes_no_more_the_error_says_so_and_the_store_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WRITE_TOO_MUCH, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "writing failed: File too large" in done.stdout
    assert done.stdout.endswith("and on\n")


def test_a_store_that_is_read_only_can_be_read(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        number = take(store, {"x": 1})
    with Store(tmp_path, is_writable=False) as store:
        assert load(store, number) == {"x": 1}
        with pytest.raises(StateError):
            store.delete([number])


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="set another folder"):
        Store(tmp_path / "file" / "store")


def test_a_network_file_system_is_recognised(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:20 / / rw - ext4 /dev/sda1 rw\n30 22 0:30 / /home rw shared:1 - nfs4 server:/home rw\n"
        "31 30 0:31 / /home/me/local rw - tmpfs tmpfs rw\n"
    )
    assert network_file_system(Path("/home/me/x"), mounts) == "nfs4"
    assert network_file_system(Path("/home/me/local/x"), mounts) == ""
    assert network_file_system(Path("/tmp/x"), mounts) == ""


def test_the_cap_on_disk_use_holds(tmp_path: Path) -> None:
    with Store(tmp_path, cap_bytes=8_000_000) as store:
        take(store, {"b": LONG}, label="kept")
        old = take(store, {"b": OTHER})
        with pytest.raises(CheckpointTooLarge, match="cap on disk use is 8,000,000"):
            take(store, {"b": random.Random(3).randbytes(3_000_000)})
        assert sweep.make_room(store, 3_100_000)
        new = take(store, {"b": random.Random(3).randbytes(3_000_000)})
        assert old not in [item.id for item in store.checkpoints()]
        assert len(readable(store)) == 2
        assert new in readable(store)
        assert store.size_bytes() <= store.cap_bytes
        assert not sweep.make_room(store, 6_000_000)
        assert [item.label for item in store.checkpoints()] == ["kept"]


def test_sweeping_gives_back_what_no_checkpoint_needs_and_keeps_the_rest(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        shared = take(store, {"b": LONG})
        gone = take(store, {"b": LONG, "c": OTHER})
        kept = take(store, {"b": LONG, "x": 1})
        store.delete([gone])
        before = store.size_bytes()
        assert sweep.sweep(store) == []
        sweep.sweep(store)
        assert before - store.size_bytes() > 2_900_000 or store.size_bytes() < 2 * len(LONG) + 100_000
        assert readable(store) == [shared, kept]


def test_a_checkpoint_that_builds_on_what_was_swept_is_refused_and_taken_again_in_full(tmp_path: Path) -> None:
    values = {"b": LONG}
    with Store(tmp_path) as store:
        first = take(store, values)
        known = store.known("s")
        with Store(tmp_path) as other:
            other.delete([first])
            sweep.sweep(other)
            store.close()
    with Store(tmp_path) as store:
        sweep.sweep(store)
        writer = CheckpointWriter(store, "s", known)
        for item in capture(values, environment=Environment(engine={"namespace": values}), known=known):
            writer.add(item)
        with pytest.raises(ChunksMissing, match="take it again in full"):
            writer.commit(About(session="s", created_ms=0, after_cell=1))
        assert load(store, take(store, values)) == values


def test_two_processes_use_a_store_at_once(tmp_path: Path) -> None:
    code = _WRITE_FOR_EVER.replace("10_000", "15").replace("print(number, flush=True)", 'store.known("s")')
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2]) for _ in range(2)
    ]
    with Store(tmp_path) as store:
        while any(writer.poll() is None for writer in writers):
            sweep.sweep(store)
            assert len(readable(store)) <= 30
        assert [writer.returncode for writer in writers] == [0, 0]
        assert len(readable(store)) == 30


@pytest.mark.parametrize("what", [".", "key"])
@pytest.mark.parametrize("is_writable", [True, False])
def test_a_store_that_everybody_may_write_to_is_refused(tmp_path: Path, what: str, *, is_writable: bool) -> None:
    with Store(tmp_path / "store"):
        pass
    (tmp_path / "store" / what).chmod(0o777)
    with pytest.raises(StoreUnavailable, match=r"everybody may write to it \(mode 777\)"):
        Store(tmp_path / "store", is_writable=is_writable)


@pytest.mark.parametrize("what", [".", "key"])
def test_a_store_of_somebody_else_is_refused(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "store"):
        pass
    if os.geteuid() == 0:
        os.chown(tmp_path / "store" / what, 12345, -1)
    else:
        # Only root can give a file away: here it is this process that is somebody else.
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for is_writable in (True, False):
        with pytest.raises(StoreUnavailable, match="it belongs to user"):
            Store(tmp_path / "store", is_writable=is_writable)


def test_a_copied_store_needs_its_key(tmp_path: Path) -> None:
    with Store(tmp_path / "a") as store:
        take(store, {"x": 1})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "key").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="the key has 0 bytes"):
        Store(tmp_path / "b")


class _Item:
    def __init__(self, number: int, created_ms: int, session: str = "s", label: str = "") -> None:
        self.id = number
        self.created_ms = created_ms
        self.session = session
        self.label = label


def test_retention_thins_with_age_and_keeps_what_has_a_name() -> None:
    hour, day = 3_600_000, 86_400_000
    now = 400 * day
    items = [_Item(n, now - (1000 - n) * hour) for n in range(1001)]
    items.append(_Item(2000, now - 300 * day, session="old"))
    items.append(_Item(2001, now - 300 * day, session="old", label="named"))
    gone = set(retention.expired(items, now, retention.Policy()))
    kept = [item for item in items if item.id not in gone]
    assert [item.id for item in kept if item.session == "old"] == [2001]
    assert {item.id for item in kept} >= set(range(981, 1001))
    assert 20 < len(kept) < 20 + 24 + 31 + 2
    assert retention.first_to_go([_Item(1, 0), _Item(2, 0), _Item(3, 0, session="t"), _Item(4, 0, label="x")])[0] == 1
