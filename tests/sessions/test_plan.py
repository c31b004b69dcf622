"""The pool's decisions: counts in, decisions out."""

from __future__ import annotations

from itertools import product

import pytest

from capsule_kernel.sessions.plan import START_ATTEMPTS, Census, Plan, plan

IN_USE, NONE = True, False


def census(has_current: bool, ready: int, starting: int, wanted: int, failed: int = 0) -> Census:
    return Census(
        has_current=has_current,
        spares_ready=ready,
        spares_starting=starting,
        spares_wanted=wanted,
        failed_starts=failed,
    )


def decision(what: str) -> Plan:
    """`"promote fork 2"` and the like as a plan."""
    words = what.split()
    return Plan(
        promote="promote" in words,
        fork_current="current" in words,
        fork_spares=int(words[-1]) if words and words[-1].isdigit() else 0,
        give_up="give-up" in words,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # The start: a worker first, and the machine to itself.
        (census(NONE, 0, 0, 0), "current"),
        (census(NONE, 0, 0, 1), "current"),
        (census(NONE, 0, 0, 3), "current"),
        # In use: the spares that are wanted and not on their way.
        (census(IN_USE, 0, 0, 0), ""),
        (census(IN_USE, 0, 0, 1), "1"),
        (census(IN_USE, 0, 1, 1), ""),
        (census(IN_USE, 1, 0, 1), ""),
        (census(IN_USE, 1, 1, 3), "1"),
        (census(IN_USE, 0, 0, 3), "3"),
        # Too many, since the settings changed or one was late: none is forked, none is ended.
        (census(IN_USE, 2, 1, 1), ""),
        # The worker died: a ready spare takes over, and is replaced at once.
        (census(NONE, 1, 0, 1), "promote 1"),
        (census(NONE, 1, 1, 1), "promote"),
        (census(NONE, 2, 0, 2), "promote 1"),
        (census(NONE, 1, 0, 0), "promote"),
        # A spare that is still starting is no worker yet: one is forked to be used.
        (census(NONE, 0, 1, 1), "current"),
        # Starts that fail: tried again a few times, then said.
        (census(NONE, 0, 0, 1, START_ATTEMPTS - 1), "current"),
        (census(NONE, 0, 0, 1, START_ATTEMPTS), "give-up"),
        (census(NONE, 0, 1, 1, START_ATTEMPTS + 1), "give-up"),
        (census(NONE, 1, 0, 1, START_ATTEMPTS), "promote"),
        (census(IN_USE, 0, 0, 1, START_ATTEMPTS - 1), "1"),
        (census(IN_USE, 0, 0, 1, START_ATTEMPTS), ""),
    ],
)
def test_a_census_leads_to_a_decision(given: Census, expected: str) -> None:
    assert plan(given) == decision(expected)


EVERY = [
    census(has_current, ready, starting, wanted, failed)
    for has_current in (IN_USE, NONE)
    for ready, starting, wanted in product(range(4), repeat=3)
    for failed in range(START_ATTEMPTS + 2)
]


def test_whatever_the_census_at_most_one_worker_is_taken_into_use() -> None:
    for given in EVERY:
        decided = plan(given)
        assert decided.promote + decided.fork_current + decided.give_up + given.has_current == 1


def test_only_a_ready_spare_is_promoted() -> None:
    assert all(given.spares_ready for given in EVERY if plan(given).promote)


def test_carrying_a_plan_out_leaves_nothing_to_decide() -> None:
    for given in EVERY:
        decided = plan(given)
        if decided.give_up:
            continue
        after = census(
            IN_USE,
            given.spares_ready - decided.promote,
            given.spares_starting + decided.fork_spares,
            given.spares_wanted,
            given.failed_starts,
        )
        followed_up = plan(after)
        # With no worker in use, spares wait until there is one.
        if decided.fork_current:
            assert not followed_up.promote
            assert not followed_up.fork_current
        else:
            assert followed_up == decision("")


def test_never_more_spares_are_forked_than_are_wanted() -> None:
    for given in EVERY:
        decided = plan(given)
        if decided.fork_spares:
            spares = given.spares_ready + given.spares_starting - decided.promote + decided.fork_spares
            assert spares == given.spares_wanted
