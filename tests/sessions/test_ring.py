"""Which snapshots stay: the newest all, older ones at gaps that grow with age."""

from __future__ import annotations

import itertools

import pytest

from capsule_kernel.sessions.ring import thin


def ages_after(cells: int, limit: int) -> list[int]:
    """The ages that are left when each of `cells` cells was followed by a snapshot, newest first."""
    ages: list[int] = []
    for _ in range(cells):
        ages = [0, *(age + 1 for age in ages)]
        dropped = thin(ages, limit)
        ages = [age for place, age in enumerate(ages) if place not in dropped]
    return ages


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 20])
@pytest.mark.parametrize("cells", [1, 2, 7, 40, 41, 200])
def test_the_newer_half_stays_and_no_more_than_the_limit(cells: int, limit: int) -> None:
    ages = ages_after(cells, limit)
    assert len(ages) == min(cells, limit)
    newer = (limit + 1) // 2
    assert ages[:newer] == list(range(min(cells, newer)))


def test_older_ones_are_followed_by_younger_ones_and_reach_further_than_there_are() -> None:
    seen = [ages_after(cells, 5) for cells in range(30, 130)]
    assert all(max(ages) <= 12 for ages in seen)
    assert sum(max(ages) >= 6 for ages in seen) > len(seen) // 2
    for ages in seen:
        gaps = [older - newer for newer, older in itertools.pairwise(ages)]
        assert max(gaps) <= 6


@pytest.mark.parametrize("limit", [0, -1])
def test_with_no_room_none_stays(limit: int) -> None:
    assert thin([0, 1, 2], limit) == [0, 1, 2]


def test_cells_that_ran_without_a_snapshot_between_count_as_age() -> None:
    # Of two that are as far apart, the older one is missed less.
    assert thin([0, 1, 20, 21, 40], 4) == [2]
