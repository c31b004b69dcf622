"""Which names are there after a restore, what the report says, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from capsule_kernel.errors import ManifestRejected
from capsule_kernel.state.manifest import Captured, Entry, changes
from capsule_kernel.state.restore import check_python
from capsule_kernel.state.store import Store
from tests.state.checkpoints import take
from tests.state.conftest import Journey

if TYPE_CHECKING:
    from pathlib import Path


def test_an_exact_restore_leaves_that_moments_names_only(journey: Journey) -> None:
    journey.take("a = 1; b = [2]; internal = []")
    back = journey.bring_back(
        "assert (a, b) == (1, [2]) and 'c' not in globals() and internal == 'mine'",
        before="a = 5; c = 6; internal = 'mine'",
    )
    assert back["removed"] == ["c"]


def test_a_merge_keeps_newer_names(journey: Journey) -> None:
    journey.take("a = 1; b = [2]")
    back = journey.bring_back("assert (a, b, c) == (1, [2], 6)", before="a = 5; c = 6", mode="merge")
    assert back["removed"] == []


def test_a_function_made_before_the_restore_sees_the_restored_names(journey: Journey) -> None:
    journey.take("a = 1\ndef f(): return a")
    journey.bring_back("assert g() == 1 and g.__globals__ is f.__globals__", before="def g(): return a", mode="merge")


def test_earlier_checkpoints_can_be_restored_too(journey: Journey) -> None:
    took = journey.take("L = [1]; x = 'old'", "L.append(2); x = 'new'; y = 3")
    assert took["changes"] == ["L: 1 item → 2 items", "x: changed", "y: new"]
    journey.bring_back("assert L == [1] and x == 'old' and 'y' not in globals()", id=took["id"] - 1)
    journey.bring_back("assert L == [1, 2] and x == 'new' and y == 3")


def test_two_checkpoints_restored_in_one_process_do_not_mix_their_classes(journey: Journey) -> None:
    journey.take("class C:\n    v = 1\nc = C()", "C.v = 2; C.w = 3")
    check = (
        "from pathlib import Path; import sys\nfrom capsule_kernel.state.store import Store\n"
        "from capsule_kernel.state.restore import restore\nkept = C\nassert C.v == 1 and not hasattr(C, 'w')\n"
        f"store = Store(Path({str(journey.store)!r})); listed = store.checkpoints()\n"
        "ns = globals(); restore(store.manifest(listed[-1].id).captured, store, ns, mode='merge',\n"
        "    engine={'namespace': ns, 'stdout': sys.stdout, 'stderr': sys.stderr})\n"
        "assert C.v == 2 and C.w == 3 and type(c) is C and kept.v == 1"
    )
    journey.bring_back(check, id=1)


def test_a_library_that_is_missing_costs_what_needs_it_and_is_named(journey: Journey) -> None:
    setup = (
        "import sys, os; os.makedirs('lib'); open('lib/gone.py', 'w').write('class K: pass'); sys.path.insert(0, os.path.abspath('lib'))\n"
        "import gone; k = gone.K(); x = 1; both = [x, k]"
    )
    journey.take(setup)
    (journey.work / "lib" / "gone.py").unlink()
    back = journey.bring_back("assert x == 1")
    for name in ("gone", "k", "both"):
        assert back["names"][name]["status"] == "lost"
        assert "No module named 'gone'" in back["names"][name]["reason"]


def test_a_file_that_is_gone_costs_the_open_file_only(journey: Journey) -> None:
    journey.take("open('f.txt', 'w').write('x'); f = open('f.txt'); x = 1")
    (journey.work / "f.txt").unlink()
    back = journey.bring_back("assert x == 1 and 'f' not in globals()")
    assert "No such file" in back["names"]["f"]["reason"]


def test_a_folder_that_is_gone_costs_the_working_folder_only(journey: Journey) -> None:
    journey.take("import os; os.mkdir('d'); os.chdir('d'); x = 1")
    (journey.work / "d").rmdir()
    back = journey.bring_back("assert x == 1")
    assert back["around"]["cwd"]["status"] == "lost"


def test_another_pythons_checkpoint_is_refused_with_what_to_do() -> None:
    with pytest.raises(ManifestRejected, match=r"taken by Python 2\.7\.18.*start a kernel with Python 2\.7"):
        check_python(Captured(names={}, extras={}, python="2.7.18", libraries={}), "7")


def test_changes_are_told_by_extent_and_name() -> None:
    def captured(**shapes: str) -> Captured:
        names = {name: Entry(status="saved", kind="DataFrame", shape=shape) for name, shape in shapes.items()}
        return Captured(names=names, extras={}, python="", libraries={})

    assert changes(captured(df="1000×5", old="1"), captured(df="900×6", model="")) == [
        "df: 1000×5 → 900×6",
        "model: new",
        "old: deleted",
    ]
    assert changes(None, captured(x="1")) == ["x: new"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(captured(x="1")), type=Captured) == captured(x="1")


def test_a_twin_that_goes_is_no_change_of_what_stays(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        twin: list[Any] = []
        values: dict[str, Any] = {"a": [], "b": twin, "c": {"b": twin}}
        first = store.manifest(take(store, values)).captured
        del values["a"]
        second = store.manifest(take(store, values)).captured
        values["c"]["more"] = 1
        third = store.manifest(take(store, values)).captured
    assert changes(first, second) == ["a: deleted"]
    assert [line.partition(":")[0] for line in changes(second, third)] == ["c"]
