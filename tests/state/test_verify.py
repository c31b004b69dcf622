"""`saved and verified` is said of what a fresh process really loaded and found the same; and what the same means."""

from __future__ import annotations

import math
import pickle
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


LIBRARIES = {
    "matplotlib": (
        "from matplotlib.figure import Figure\nfig = Figure(); axes = fig.subplots(1, 2)\n"
        "line, = axes[0].plot([1, 2, 3]); bars = axes[1].bar(['a', 'b'], [1, 2]); axes[0].set_title('t')\n"
        "from matplotlib.backends.backend_agg import FigureCanvasAgg\nFigureCanvasAgg(fig).draw()"
    ),
    "plotly": (
        "import plotly.graph_objects as go\n"
        "fig = go.Figure(go.Bar(y=[1, 2], x=['a', 'b']), layout={'title': {'text': 't'}}); fig.update_yaxes(title='y')"
    ),
    "scikit-learn": (
        "from sklearn.datasets import load_iris\nfrom sklearn.linear_model import LogisticRegression\n"
        "from sklearn.model_selection import GridSearchCV\niris = load_iris()\n"
        "grid = GridSearchCV(LogisticRegression(max_iter=10), {'C': [1, 2]}, cv=2)\n"
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')\n"
        "    grid.fit(iris.data, iris.target)"
    ),
    "statsmodels": (
        "import numpy as np, statsmodels.api as sm\nx = np.arange(20.)\n"
        "res = sm.OLS(x * 2 + np.sin(x), sm.add_constant(x)).fit(); text = str(res.summary())"
    ),
    "masked arrays": (
        "import numpy as np\nx = np.arange(5.); m = np.ma.array(x, mask=x < 2); n = np.ma.array([1, 2]); n.units = 'm'\n"
        "o = np.ma.masked_less(np.arange(6).reshape(2, 3).T, 2); o.fill_value = 7; p = o[1:]"
    ),
    "bound builtin methods": "kept = [1]; add = kept.append; also = {'a': kept.pop}",
    "arrays with gaps": "import numpy as np\ngaps = np.arange(12.).reshape(3, 4)[:, 1]; hull = gaps[::2]; del gaps",
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_value_of_a_library_is_verified(journey: Journey, library: str) -> None:
    took = journey.take(LIBRARIES[library], verify=True)
    unproven = {name: entry for name, entry in took["names"].items() if entry["status"] != "saved and verified"}
    assert not unproven


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


class _Rows:
    def __init__(self, rows: dict[str, int]) -> None:
        self.rows = rows

    def __getstate__(self) -> dict[str, int]:
        return self.rows


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


def test_figures_differ_by_what_they_show() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    axes.plot([1, 2])
    axes.set_title("t")
    copies = [pickle.loads(pickle.dumps(figure)) for _ in range(3)]
    copies[1].axes[0].lines[0].set_ydata([1, 3])
    copies[2].axes[0].set_title("u")
    assert differences(figure, copies[0]) == []
    assert any("_yorig" in found for found in differences(figure, copies[1]))
    assert any("'t', 'u'" in found for found in differences(figure, copies[2]))


def test_charts_of_plotly_differ_by_content_and_not_by_the_order_of_keys() -> None:
    import plotly.graph_objects as go

    left = go.Figure({"data": [{"type": "bar", "y": [1, 2], "name": "n"}]})
    assert differences(left, go.Figure({"data": [{"name": "n", "y": [1, 2], "type": "bar"}]})) == []
    assert differences(left, go.Figure({"data": [{"name": "n", "y": [1, 3], "type": "bar"}]}))
    assert differences(left, go.Figure({"data": [{"y": [1, 2], "type": "bar"}]}))


def test_masked_arrays_are_compared_with_mask_and_fill_value() -> None:
    np = pytest.importorskip("numpy")
    masked = np.ma.array([1, 2, 3], mask=[0, 1, 0])
    assert differences(masked, masked.copy()) == []
    assert differences(masked, np.ma.array([1, 2, 3], mask=[0, 0, 1]))
    assert differences(masked, np.ma.array([1, 2, 3], mask=[0, 1, 0], fill_value=7))
    other = masked.copy()
    other.units = "m"
    assert differences(masked, other)


def test_the_order_of_what_a_class_writes_down_itself_counts() -> None:
    assert differences(_Point([1]), _Point([1])) == []
    assert differences(_Rows({"a": 1, "b": 2}), _Rows({"a": 1, "b": 2})) == []
    assert differences(_Rows({"a": 1, "b": 2}), _Rows({"b": 2, "a": 1}))


def test_a_figure_without_a_handler_that_was_connected_is_not_the_same() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    figure.canvas.mpl_connect("button_press_event", print)
    assert differences(figure, pickle.loads(pickle.dumps(figure)))


def test_bound_builtin_methods_are_compared_with_their_object() -> None:
    one, other = [1], [1]
    assert differences([one, one.append], [other, other.append]) == []
    assert differences([one, one.append], [other, [1].append])
    assert differences(one.append, other.pop)
