"""What one object's own code does wrong costs the names that hold it, and nothing else."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from capsule_kernel.state.exchange import CAPTURE_DEADLINE_S, early_end
from capsule_kernel.state.reasons import is_interrupt
from tests.state.conftest import Journey

ENDS = ("SystemExit(3)", "KeyboardInterrupt", "GeneratorExit", "asyncio.CancelledError('no')")


@pytest.mark.parametrize("error", ENDS)
def test_an_object_that_wants_to_end_the_process_is_not_saved_and_the_others_are(journey: Journey, error: str) -> None:
    took = journey.take(
        "import asyncio\nclass Bad:\n    def __reduce__(self):\n"
        f"        raise {error}\nbad = Bad(); holds = [bad]; good = [1]",
        verify=True,
    )
    for name in ("bad", "holds"):
        assert took["names"][name]["status"] == "live only"
        assert error.partition("(")[0].removeprefix("asyncio.") in took["names"][name]["reason"]
    assert took["names"]["good"]["status"] == "saved and verified"
    journey.bring_back("assert good == [1] and 'bad' not in globals()")


@pytest.mark.parametrize("error", ENDS)
def test_an_object_that_ends_its_loading_is_lost_and_the_others_are_back(journey: Journey, error: str) -> None:
    cell = (
        "class Bad:\n    n = 1\n    def __getstate__(self): return 1\n"
        f"    def __setstate__(self, state):\n        import asyncio\n        raise {error}\nbad = Bad(); holds = [bad]; good = [1]"
    )
    took = journey.take(cell, verify=True)
    assert "a fresh process cannot load it" in took["names"]["bad"]["reason"]
    assert took["names"]["good"]["status"] == "saved and verified"
    back = journey.bring_back("assert good == [1] and 'bad' not in globals() and 'holds' not in globals()")
    assert error.partition("(")[0].removeprefix("asyncio.") in back["names"]["bad"]["reason"]


def _raises_itself() -> None:
    raise KeyboardInterrupt


def _is_struck() -> None:
    signal.raise_signal(signal.SIGINT)


def _own_handler(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("handler", [signal.default_int_handler, _own_handler])
@pytest.mark.parametrize(("act", "is_persons"), [(_raises_itself, False), (_is_struck, True)])
def test_a_persons_interrupt_is_told_from_what_an_object_raises(
    handler: Callable[[int, object], None], act: Callable[[], None], is_persons: bool
) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            act()
        assert is_interrupt(caught.value) is is_persons
    finally:
        signal.signal(signal.SIGINT, before)


def test_only_a_keyboard_interrupt_may_be_a_persons() -> None:
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(3)
    assert not is_interrupt(caught.value)


def test_an_object_that_cannot_be_compared_is_unproven_and_the_others_are_proven(journey: Journey) -> None:
    took = journey.take(
        "import os\nclass E:\n    def __getattr__(self, name): raise RuntimeError('not to be asked')\n"
        "class Once:\n    asked = []\n    def __reduce__(self):\n        Once.asked.append(1)\n"
        "        if len(Once.asked) > 1: raise SystemExit('once only')\n        return Once, (), {'n': os.getpid()}\n"
        "e = E(); once = Once(); good = [1]",
        verify=True,
    )
    assert took["names"]["good"]["status"] == took["names"]["E"]["status"] == "saved and verified"
    assert took["names"]["e"]["status"].startswith("saved")
    assert took["names"]["once"]["status"] == "saved"
    assert "once only" in took["names"]["once"]["doubt"]


def test_what_a_fresh_process_makes_differ_has_the_difference_said(journey: Journey) -> None:
    took = journey.take(
        "class Forgets:\n    def __getstate__(self): return {'n': id(self)}\n"
        "    def __setstate__(self, state): self.n = 0\nf = Forgets(); f.n = 1; good = [1]",
        verify=True,
    )
    assert took["names"]["f"]["status"] == "saved"
    assert took["names"]["f"]["doubt"]
    assert not took["names"]["good"]["doubt"]


def test_classes_that_are_of_no_module_are_proven(journey: Journey) -> None:
    took = journey.take(
        "import sympy\nx = sympy.Symbol('x'); f = sympy.Function('f'); ex = f(x) + 1\n"
        "C = type('C', (), {'__module__': None, 'n': 1}); c = C(); c.k = [1]\nclass D(dict): pass\n"
        "D.__module__ = None; d = D(a=1)",
        verify=True,
    )
    unproven = {name: entry for name, entry in took["names"].items() if entry["status"] != "saved and verified"}
    # Of a class, what it has as its base has it is left to the base: `f._nargs`.
    assert set(unproven) <= {"f"}
    assert took["names"]["f"]["status"].startswith("saved")
    journey.bring_back("import sympy; assert ex == f(x) + 1 and c.k == [1] and type(c) is C and d == {'a': 1}")


def test_methods_that_a_library_wrote_are_proven_without_the_namespace_that_it_copied(journey: Journey) -> None:
    took = journey.take(
        "gen = (i for i in [1]); import attrs, collections, typing\n"
        "@attrs.define\nclass At:\n    tags: frozenset = frozenset({'a', 'b', 'cc'})\n    a: int = 1\nat = At()\n"
        "Pair = collections.namedtuple('Pair', 'x y'); pair = Pair(1, {'q', 'rr'})\n"
        "class Row(typing.NamedTuple):\n    k: int = 1\nrow = Row()",
        verify=True,
    )
    unproven = {name: entry for name, entry in took["names"].items() if entry["status"] != "saved and verified"}
    assert set(unproven) == {"gen"}, [entry["doubt"] for entry in unproven.values()]
    journey.bring_back("assert at == At() and pair.x == 1 and row.k == 1")


def test_a_capture_that_took_too_long_is_not_called_out_of_memory() -> None:
    assert "took longer than 240 s" in early_end(CAPTURE_DEADLINE_S + 0.1)
    assert "out of memory, perhaps" in early_end(CAPTURE_DEADLINE_S / 2)
