"""`saved and verified` is said of what a fresh process really loaded and found the same; and what the same means."""

from __future__ import annotations

import math
from typing import Any

import pytest

from capsule_kernel.state.equality import differences
from tests.state.conftest import Journey

SESSION = """
import numpy as np, pandas as pd, collections, functools, threading, re, enum, dataclasses, random
x = 1; big = 10 ** 40; nan = float('nan'); s = {'a', 'b', 'cc', 'dd'}; l = [x, s, [nan]]; t = ('q', l); d = {'k': l, 2: t}
a = np.arange(10000.).reshape(100, 100); v = a[1:3]; df = pd.DataFrame(np.random.rand(50, 3), columns=list('abc')); h = df['a']
def f(n): return x + n
class C:
    k = {'z', 'yy', 'x'}
    def __init__(self, n): self.n = n; self.attr = 'attr'
c = C(3); cs = [C(i) for i in range(5)]; lam = lambda q: q; part = functools.partial(f, 2)
@dataclasses.dataclass
class D: a: int = 1
dd = D(); P = collections.namedtuple('P', 'a b'); p = P(1, 2); lock = threading.Lock(); m = re.search('a', 'ba')
class E(enum.Enum): A = 1
e = E.A; od = collections.OrderedDict(a=1); q = collections.deque([1]); r = random.Random(4); g = (i for i in l)
"""


def test_every_name_of_a_session_is_verified(journey: Journey) -> None:
    took = journey.take(SESSION, verify=True)
    unproven = {name: entry for name, entry in took["names"].items() if entry["status"] != "saved and verified"}
    assert set(unproven) == {"g"}


def test_what_saves_but_does_not_load_is_not_called_saved(journey: Journey) -> None:
    took = journey.take(
        "class Bad:\n    def __init__(self): self.n = 1\n    def __setstate__(self, state): raise ValueError('never')\n"
        "bad = Bad(); holds = [bad]; fine = 1",
        verify=True,
    )
    assert took["names"]["fine"]["status"] == "saved and verified"
    for name in ("bad", "holds"):
        assert took["names"][name]["status"] == "live only"
        assert "a fresh process cannot load it: ValueError: never" in took["names"][name]["reason"]


def test_what_loads_as_something_else_is_not_verified(journey: Journey) -> None:
    took = journey.take(
        "class Forgets:\n    def __getstate__(self): return {'n': 0}\nf = Forgets(); f.n = 1\n"
        "class Odd:\n    def __reduce__(self): return (str, (str(id(self)),))\no = Odd()",
        verify=True,
    )
    assert took["names"]["o"]["status"] == "saved"


class _Point:
    def __init__(self, x: Any) -> None:
        self.x = x


SHARED: list[int] = []
ALSO_SHARED: list[int] = []
SAME = [
    (1, 1),
    (math.nan, math.nan),
    ([1, {"a": (2, b"x")}], [1, {"a": (2, b"x")}]),
    ({1, 2, "a"}, {"a", 2, 1}),
    (_Point([1]), _Point([1])),
    ((SHARED, SHARED), (ALSO_SHARED, ALSO_SHARED)),
]
OTHER = [
    (1, 1.0, "int"),
    (1, True, "int"),
    (0.0, -0.0, "-0.0"),
    ([1], [1, 2], "1 items"),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "keys"),
    (_Point(1), _Point(2), "2"),
    ((SHARED, SHARED), ([], []), "one object"),
    (([], []), (SHARED, SHARED), "own"),
    (len, max, "len"),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_the_same_values_have_no_differences(left: Any, right: Any) -> None:
    assert differences(left, right) == []


@pytest.mark.parametrize(("left", "right", "said"), OTHER)
def test_a_difference_is_found_and_told(left: Any, right: Any, said: str) -> None:
    found = differences(left, right)
    assert found
    assert said in found[0]


def test_cycles_are_compared_once() -> None:
    left: list[Any] = [1]
    left.append(left)
    right: list[Any] = [1]
    right.append(right)
    assert differences(left, right) == []
    right[1] = [1, right]
    assert differences(left, right)


def test_arrays_are_compared_with_type_layout_and_content() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(6.0).reshape(2, 3)
    assert differences(array, array.copy()) == []
    assert differences(array, numpy.asfortranarray(array))
    assert differences(array, array.astype("f4"))
    assert differences(array, array + 1)
