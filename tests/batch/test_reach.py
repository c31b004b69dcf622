"""What the notebook's own functions read, wherever they are kept."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from capsule_kernel.batch.reach import names_reached

SOURCE = """
import functools, re

def direct(): return connection
def through(): return direct()
def nested():
    def inner(): return connection
    return inner
def pattern(): return re.compile('x')
def anything(): return eval('connection')
def pure(x): return x.connection

class Client:
    def get(self): return connection

client = Client()
method = client.get
partial = functools.partial(direct)
held = {'a': [(direct,)]}
closure = (lambda f: lambda: f())(direct)
with_default = lambda f=direct: f()
plain = {'a': [1.0] * 10_000}
library = functools.reduce
"""


@pytest.fixture(scope="module")
def namespace() -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": "__main__"}
    exec(SOURCE, found)
    return found


@pytest.mark.parametrize(
    "name",
    ["direct", "through", "nested", "client", "Client", "method", "partial", "held", "closure", "with_default"],
)
def test_code_that_a_value_leads_to_is_looked_into(namespace: dict[str, Any], name: str) -> None:
    reached = names_reached(namespace, [name])
    assert reached is not None
    assert "connection" in reached


@pytest.mark.parametrize("name", ["pattern", "pure", "plain", "library", "functools", "unknown"])
def test_what_leads_nowhere_reaches_nothing(namespace: dict[str, Any], name: str) -> None:
    reached = names_reached(namespace, [name])
    assert reached is not None
    assert "connection" not in reached


def test_code_that_may_read_anything_says_so(namespace: dict[str, Any]) -> None:
    assert names_reached(namespace, ["anything"]) is None


def test_a_library_s_functions_do_not_know_the_notebook(namespace: dict[str, Any]) -> None:
    assert names_reached({"f": functools.partial}, ["f"]) == frozenset()
