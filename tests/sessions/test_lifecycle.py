"""The table of a session's life: what it names leads on, what it does not name raises, and every life ends."""

from __future__ import annotations

from itertools import product

import pytest

from capsule_kernel.errors import IllegalTransition
from capsule_kernel.sessions.lifecycle import TRANSITIONS, Event, Phase, advance

PAIRS = list(product(Phase, Event))
LEGAL = {
    # The life of a worker that is used and told to leave.
    "forking forked": "starting",
    "starting ready": "idle",
    "starting resumed": "busy",
    "idle execute": "busy",
    "busy done": "idle",
    # Told to leave.
    "forking stop": "stopping",
    "starting stop": "stopping",
    "idle stop": "stopping",
    "busy stop": "stopping",
    "stopping stop": "stopping",
    # What was on its way then.
    "stopping forked": "stopping",
    "stopping ready": "stopping",
    "stopping resumed": "stopping",
    "stopping done": "stopping",
    # The end can come at any time.
    "forking exit": "dead",
    "starting exit": "dead",
    "forking born": "sleeping",
    "sleeping wake": "starting",
    "sleeping stop": "stopping",
    "sleeping exit": "dead",
    "idle exit": "dead",
    "busy exit": "dead",
    "stopping exit": "dead",
}


@pytest.mark.parametrize(("phase", "event"), PAIRS)
def test_a_pair_leads_where_it_should_or_raises(phase: Phase, event: Event) -> None:
    expected = LEGAL.get(f"{phase.value} {event.value}")
    if expected is not None:
        assert advance(phase, event) is Phase(expected)
        return
    with pytest.raises(IllegalTransition) as caught:
        advance(phase, event)
    assert (caught.value.phase, caught.value.event) == (phase.value, event.value)


def test_the_table_has_no_other_pairs() -> None:
    assert {f"{phase.value} {event.value}" for phase, event in TRANSITIONS} == set(LEGAL)


def test_nothing_follows_death() -> None:
    for event in Event:
        with pytest.raises(IllegalTransition):
            advance(Phase.DEAD, event)


def test_every_living_phase_can_be_stopped_and_can_end() -> None:
    for phase in set(Phase) - {Phase.DEAD}:
        assert advance(phase, Event.STOP) is Phase.STOPPING
        assert advance(phase, Event.EXIT) is Phase.DEAD


def test_a_session_that_is_leaving_never_takes_another_cell() -> None:
    with pytest.raises(IllegalTransition):
        advance(Phase.STOPPING, Event.EXECUTE)


def test_every_phase_can_be_reached() -> None:
    reached = {Phase.FORKING}
    while more := {advance(*pair) for pair in TRANSITIONS if pair[0] in reached} - reached:
        reached |= more
    assert reached == set(Phase)
