"""Which objects are pickled together, and which are records of their own.

Every name's value is a node; so is every object whose identity matters and that two nodes reach, so that it is stored
once and is one object again after a restore. Nodes that reach each other, or share very much, become one. What
remains has no cycles: it can be loaded from the leaves up, without recursion.

The work is done by pickling: each node in turn, until no node reaches what another one holds.
"""

from __future__ import annotations

import io
import itertools
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from capsule_kernel.state.components import components
from capsule_kernel.state.kinds import Kind, is_by_name, kind_of, owned_by_module
from capsule_kernel.state.pickler import Environment, RecordPickler
from capsule_kernel.state.reasons import TOO_DEEP, reason_of

_LONG_TEXT = 4096
_CUT_EVERY = 100
_CUTS_MAX = 200
"""How often what is nested too deeply is cut into nodes: an object whose state never ends must not keep us for ever."""

_PATIENT_ROUNDS = 8
"""In more rounds than this, what two nodes share is found step by step: the links of a chain, one in each."""

_SHARED_MAX = 64
"""Nodes that share more objects than this are one: many small records would cost more than storing both again."""


@dataclass(eq=False, slots=True)
class Node:
    """Objects that are pickled together."""

    objects: list[Any]
    has_identity: bool = True
    """Whether it can be told from another that looks the same; not so for numbers and short texts."""
    references: list[int] = field(default_factory=list)
    """Ids of the objects of other nodes that the stream refers to, in order of first use."""
    ordinals: dict[int, int] = field(default_factory=dict)
    owned: list[int] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)
    stream: bytes | None = None
    buffers: list[tuple[memoryview, int]] = field(default_factory=list)
    """Flat views with the size of a row in bytes."""
    blobs: list[bytes] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)
    failure: str = ""
    merged_into: Node | None = None
    is_cut: bool = False
    """Whether it would be nested too deeply together with what it shares."""


class Linker:
    """Finds the nodes of a namespace and pickles them."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._kinds: dict[type, Kind] = {}
        self._owned: dict[type, dict[int, tuple[Any, str, str]]] = {}
        self._by_name: dict[int, bool] = {}
        self._node_of: dict[int, Node] = {}
        self._owner: dict[int, Node] = {}
        # An id means an object only while that object lives.
        self._alive: dict[int, Any] = {}
        self._viewers: dict[int, tuple[Any, set[int], set[Node]]] = {}
        self._promoted: list[Node] = []
        self._dirty: dict[Node, None] = {}
        self._shared: dict[tuple[Node, Node], list[int]] = {}
        self._atoms: dict[int, Node] = {}
        self._globals: dict[int, tuple[types.FunctionType, Any]] = {}
        self._cuts = 0
        # Whether a node looks behind what it shares with another one, for all that it shares.
        self._is_thorough = False
        self.tuples: set[int] = set()
        """Ids of the tuples that names are bound to."""

    def add(self, value: Any) -> None:
        """Take the value of a name."""
        identity = id(value)
        is_linked = self._is_linked(value)
        nodes = self._node_of if is_linked else self._atoms
        if identity not in nodes:
            nodes[identity] = Node([value], has_identity=is_linked)
            self._alive[identity] = value
            if type(value) is tuple:
                self.tuples.add(identity)

    def link(self) -> list[Node]:
        """Return the nodes of everything that was added, each after those that it refers to."""
        queue = [*self._node_of.values(), *self._atoms.values()]
        for round_ in itertools.count():
            if not queue:
                break
            self._is_thorough = round_ >= _PATIENT_ROUNDS
            for node in queue:
                if node.merged_into is None:
                    self._dump(node)
            self._merge_what_shares_much()
            # Owners first: what became a node of its own is then no more theirs.
            queue = list(dict.fromkeys([*self._dirty, *self._promoted]))
            self._dirty.clear()
            self._promoted.clear()
        nodes = list(dict.fromkeys([*self._node_of.values(), *self._atoms.values()]))
        groups = components(nodes, self._targets)
        return [group[0] if len(group) == 1 else self._merge(group) for group in groups]

    def node_of(self, identity: int) -> tuple[Node, int]:
        """Return the node of an object that has one, and its place in it."""
        node = self._node_of.get(identity) or self._atoms[identity]
        return node, next(place for place, value in enumerate(node.objects) if id(value) == identity)

    # --- what the pickler asks ----------------------------------------------------------------------------------------

    def visit(self, node: Node, value: Any) -> int | None:
        """Return the number under which `node` refers to `value`, None where it is part of the node itself."""
        identity = id(value)
        other = self._node_of.get(identity)
        if other is not None:
            return None if other is node else self._refer(node, identity)
        if not self._has_identity(value):
            return None
        owner = self._owner.get(identity)
        if owner is None:
            self._owner[identity] = node
            self._alive[identity] = value
            node.owned.append(identity)
            return None
        if owner is node:
            return None
        self._shared.setdefault((owner, node), []).append(identity)
        if self._is_thorough:
            self._dirty[node] = None
            return None
        self._promote(identity, value)
        return self._refer(node, identity)

    def visit_view(self, node: Node, base: Any, viewer: Any) -> bool:
        """Return whether an array has to be stored as a view of `base`: other arrays look at the same memory."""
        identity = id(base)
        if identity in self._node_of:
            return base is not viewer
        _, viewers, nodes = self._viewers.setdefault(identity, (base, set(), set()))
        viewers.add(id(viewer))
        self._alive[id(viewer)] = viewer
        nodes.add(node)
        if len(viewers) > 1:
            self._dirty.update(dict.fromkeys(nodes))
            self._promote(identity, base)
            return base is not viewer
        return False

    def owned_attribute(self, value: Any) -> tuple[str, str] | None:
        """Return the module that has `value` as an attribute, and the attribute's name, if it is that of its class."""
        cls = type(value)
        owned = self._owned.get(cls)
        if owned is None:
            owned = self._owned[cls] = owned_by_module(cls)
        found = owned.get(id(value))
        return None if found is None else found[1:]

    def own_globals(self, made: types.FunctionType, find: Callable[[dict[str, Any]], Any]) -> Any:
        """Return what `find` says of the globals of a function: the same for all that share them."""
        identity = id(made.__globals__)
        if identity not in self._globals:
            # The function keeps its globals alive; that we hold them ourselves would make them look shared.
            self._globals[identity] = (made, find(made.__globals__))
        return self._globals[identity][1]

    # --- nodes --------------------------------------------------------------------------------------------------------

    def _dump(self, node: Node) -> None:
        self._release(node)
        fresh = Node(node.objects)
        for name in ("references", "ordinals", "owned", "stream", "buffers", "blobs", "notes", "failure"):
            setattr(node, name, getattr(fresh, name))
        file = io.BytesIO()
        try:
            RecordPickler(file, self, node).dump(tuple(node.objects))
        except BaseException as exc:  # noqa: BLE001 - pickling runs any object's code, which may raise SystemExit too
            # Nobody interrupts or ends a capture by an exception: the name is reported, the rest goes on.
            node.failure = reason_of(exc)
            owned = node.owned
            for part in (node.buffers, node.blobs, node.references):
                part.clear()
            self._release(node)
            if node.failure == TOO_DEEP:
                self._cut(node, owned)
            return
        node.stream = file.getvalue()

    def _cut(self, node: Node, owned: list[int]) -> None:
        """Make nodes of some of the objects on the way to where pickling ended."""
        if self._cuts < _CUTS_MAX and len(owned) > _CUT_EVERY:
            self._cuts += 1
            for identity in owned[_CUT_EVERY::_CUT_EVERY]:
                self._promote(identity, self._alive[identity])
                self._promoted[-1].is_cut = True
            node.is_cut = True
            self._dirty[node] = None

    def _release(self, node: Node) -> None:
        for identity in node.owned:
            if self._owner.get(identity) is node:
                del self._owner[identity]

    def _refer(self, node: Node, identity: int) -> int:
        ordinal = node.ordinals.get(identity)
        if ordinal is None:
            ordinal = node.ordinals[identity] = len(node.references)
            node.references.append(identity)
        return ordinal

    def _promote(self, identity: int, value: Any) -> None:
        owner = self._owner.pop(identity, None)
        if owner is not None:
            self._dirty[owner] = None
        made = Node([value])
        self._node_of[identity] = made
        self._alive[identity] = value
        self._promoted.append(made)

    def _merge_what_shares_much(self) -> None:
        inside: set[int] = set()
        for (owner, other), identities in self._shared.items():
            first, second = _survivor(owner), _survivor(other)
            if first.failure or second.failure:
                # What cannot be saved shares nothing.
                inside.update(identities)
            elif len(identities) > _SHARED_MAX and not (first.is_cut or second.is_cut):
                merged = first if first is second else self._join([first, second])
                self._dirty[merged] = None
                inside.update(identities)
            elif self._is_thorough:
                for identity in identities:
                    if identity not in self._node_of:
                        self._promote(identity, self._alive[identity])
        self._shared.clear()
        if inside:
            self._promoted = [node for node in self._promoted if id(node.objects[0]) not in inside]
            for identity in inside:
                self._node_of.pop(identity, None)
            for node in set(self._node_of.values()):
                if not inside.isdisjoint(node.references):
                    self._dirty[node] = None
        self._dirty = dict.fromkeys(_survivor(node) for node in self._dirty)

    def _join(self, group: list[Node]) -> Node:
        merged = Node([value for node in group for value in node.objects], is_cut=any(node.is_cut for node in group))
        for node in group:
            node.merged_into = merged
            for identity in node.owned:
                if self._owner.get(identity) is node:
                    self._owner[identity] = merged
                    merged.owned.append(identity)
        for value in merged.objects:
            self._node_of[id(value)] = merged
        return merged

    def _merge(self, group: list[Node]) -> Node:
        merged = self._join(group)
        self._dump(merged)
        return merged

    def _targets(self, node: Node) -> list[Node]:
        return [self._node_of[identity] for identity in node.references]

    # --- values -------------------------------------------------------------------------------------------------------

    def _kind(self, value: Any) -> Kind:
        cls = type(value)
        kind = self._kinds.get(cls)
        if kind is None:
            kind = self._kinds[cls] = kind_of(cls)
        return kind

    def _has_identity(self, value: Any) -> bool:
        kind = self._kind(value)
        if kind is Kind.OBJECT:
            return self.owned_attribute(value) is None
        return kind is Kind.CODE and not self._is_by_name(value)

    def _is_linked(self, value: Any) -> bool:
        """Return whether other nodes refer to this value of a name, rather than have one of their own."""
        kind = self._kind(value)
        if kind is Kind.TEXT:
            return len(value) > _LONG_TEXT
        if kind is Kind.TUPLE:
            return len(value) > 0
        return self._has_identity(value)

    def _is_by_name(self, value: Any) -> bool:
        known = self._by_name.get(id(value))
        if known is None:
            known = self._by_name[id(value)] = is_by_name(value)
            self._alive[id(value)] = value
        return known


def _survivor(node: Node) -> Node:
    while node.merged_into is not None:
        node = node.merged_into
    return node
