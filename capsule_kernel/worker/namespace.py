"""The names in the user's namespace that are the engine's: IPython fails without them, so none of them stays lost.

The namespace is one dict object for the worker's whole life; user code may clear it like any other.
"""

from __future__ import annotations

from typing import Any

_ENGINES_OWN = ("_ih", "_oh", "_dh")
"""Histories that IPython reads through the namespace: always its own objects, whatever user code puts there."""

ENGINE_INTERNALS = frozenset(
    {
        *_ENGINES_OWN,
        "In",
        "Out",
        "get_ipython",
        "exit",
        "quit",
        "open",
        "__name__",
        "__doc__",
        "__package__",
        "__loader__",
        "__spec__",
        "__builtin__",
        "__builtins__",
    }
)
"""Names that are there again for each cell. All but the histories user code may give values of its own."""

USERS_TOO = frozenset({"exit", "quit", "open", "__doc__"})
"""Names of these that user code takes for values of its own, which are variables like others then."""


def internals_in(namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the engine's names with the values that they have in a fresh `namespace`."""
    return {name: namespace[name] for name in ENGINE_INTERNALS if name in namespace}


def put_back(namespace: dict[str, Any], internals: dict[str, Any]) -> None:
    """Put back into `namespace` what is missing of `internals`, and the histories also where they were overwritten."""
    for name in _ENGINES_OWN:
        if namespace.get(name) is not internals[name]:
            namespace[name] = internals[name]
    if not namespace.keys() >= internals.keys():
        for name, value in internals.items():
            namespace.setdefault(name, value)
