"""Strongly connected components of a graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence


def components[T: Hashable](nodes: Iterable[T], targets: Callable[[T], Sequence[T]]) -> list[list[T]]:
    """Return the groups of nodes that reach each other, each group after those that it reaches (Tarjan, 1972)."""
    index: dict[T, int] = {}
    low: dict[T, int] = {}
    on_stack: set[T] = set()
    stack: list[T] = []
    groups: list[list[T]] = []
    for root in nodes:
        if root in index:
            continue
        work: list[tuple[T, int]] = [(root, 0)]
        while work:
            node, position = work.pop()
            if position == 0:
                index[node] = low[node] = len(index)
                stack.append(node)
                on_stack.add(node)
            following = targets(node)
            for place in range(position, len(following)):
                target = following[place]
                if target not in index:
                    work += [(node, place + 1), (target, 0)]
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                if low[node] == index[node]:
                    group = stack[stack.index(node) :]
                    del stack[len(stack) - len(group) :]
                    on_stack.difference_update(group)
                    groups.append(group)
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
    return groups
