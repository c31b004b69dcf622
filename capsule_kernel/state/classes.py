"""How classes of the namespace are taken apart: as cloudpickle does it, and then without running anybody's code.

Making a class again must not run its metaclass, nor what its bases do with new subclasses: those ran, and what they
did is part of the state already.
"""

from __future__ import annotations

import enum
import types
from typing import Any

from capsule_kernel.state import rebuild

_MEMBER_OWN = frozenset({"_name_", "_value_", "__objclass__", "_sort_order_"})


def reduce_class(cls: type, reduced: tuple[Any, ...]) -> Any:
    """Return how to make `cls` again, from what cloudpickle says."""
    meta, name, _, namespace, _, _ = reduced[1]
    (state, _), setter = reduced[2], reduced[5]
    state = {
        key: value
        for key, value in state.items()
        # The second is what `copyreg` remembers when an instance is pickled, this capture's own included.
        if not (isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls) and key != "__slotnames__"
    }
    namespace = dict(namespace)
    for early in ("__slots__", "__orig_bases__"):
        if early in vars(cls):
            namespace[early] = vars(cls)[early]
    if cls.__qualname__ != name:
        namespace["__qualname__"] = cls.__qualname__
    return rebuild.new_class, (meta, name, cls.__bases__, namespace), (state, {}), None, None, setter


def reduce_enum(cls: type[enum.Enum], reduced: tuple[Any, ...]) -> Any:
    """Return how to make an enum again, its aliases and what its members carry included."""
    make, (bases, name, qualname, _, module, _, extra) = reduced[:2]
    (state, _), setter = reduced[2], reduced[5]
    del setter
    members = {key: _as_member(member._value_) for key, member in cls.__members__.items()}
    carried = {
        key: {field: value for field, value in vars(member).items() if field not in _MEMBER_OWN}
        for key, member in cls.__members__.items()
    }
    state = {key: value for key, value in state.items() if key not in members}
    args = (bases, name, qualname, members, module, None, extra)
    return make, args, (state, carried), None, None, rebuild.fill_enum


def _as_member(value: Any) -> Any:
    """Return what stands for a member in an enum's body: a function or a class there would be an attribute of it."""
    is_attribute = isinstance(value, type) or any(hasattr(value, name) for name in ("__get__", "__set__", "__delete__"))
    return enum.member(value) if is_attribute else value
