"""What one object's own code does wrong costs the names that hold it, and nothing else."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

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
