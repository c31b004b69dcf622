"""Objects that are linked with each other, and reached from several names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from capsule_kernel.state.linker import Linker
from capsule_kernel.state.pickler import Environment

if TYPE_CHECKING:
    from .conftest import Journey

LINKED = """
class Link:
    __slots__ = ("next", "previous", "number")
    def __init__(self, number): self.number, self.next, self.previous = number, None, None
links = [Link(number) for number in range({count})]
for one, other in zip(links, links[1:]):
    one.next = other
    if {is_double}: other.previous = one
head, middle = links[0], links[len(links) // 2]
"""


@pytest.mark.parametrize(("count", "is_double"), [(40, False), (40, True), (300, False), (300, True), (5000, False)])
def test_a_chain_is_one_again(journey: Journey, count: int, *, is_double: bool) -> None:
    took = journey.take(LINKED.format(count=count, is_double=is_double))
    assert {entry["status"] for entry in took["names"].values()} == {"saved"}
    journey.bring_back(
        "assert links[0] is head and links[len(links) // 2] is middle\n"
        "assert [link.number for link in links] == list(range(len(links)))\n"
        "assert all(one.next is other for one, other in zip(links, links[1:])) and links[-1].next is None\n"
        f"assert all(other.previous is (one if {is_double} else None) for one, other in zip(links, links[1:]))"
    )


class Link:
    """One of a chain."""

    def __init__(self, after: Link | None) -> None:
        self.after = after


def test_a_chain_takes_no_round_for_each_of_its_links(monkeypatch: pytest.MonkeyPatch) -> None:
    links = [Link(None)]
    for _ in range(999):
        links.append(Link(links[-1]))
    dumped: list[Any] = []
    dump = Linker._dump
    monkeypatch.setattr(Linker, "_dump", lambda linker, node: (dumped.append(node), dump(linker, node)))
    linker = Linker(Environment(engine={}))
    for value in (links, links[-1]):
        linker.add(value)
    linker.link()
    assert len(dumped) < 50
