"""Arrays, frames and figures: views, memory layout, copy-on-write, options, each restored in a fresh process."""

from __future__ import annotations

import pytest

from tests.state.conftest import Journey

_SV = (
    "class Sv(np.ndarray):\n    def __new__(cls, x, info=None):\n        made = np.asarray(x).view(cls); made.info = info; return made\n"
    "    def __array_finalize__(self, obj): self.info = getattr(obj, 'info', None)\n"
)

NUMPY = {
    "arrays of a class of the notebook keep their attributes and their views": (
        _SV
        + "svb = np.arange(3).view(Sv); svb.info = ['i']; svv = svb[1:]; plain = np.asarray(svb)[:2]; alone = Sv([1., 2.], {'k': svb})\n"
        "owner = svb + 1; owner.info = 'own'; part = owner[::2]; shared = svb.info; copy = svb.copy(); far = np.zeros((99, 99)).T[::2].view(Sv)\n"
        "far.info = 1; ro = Sv([1]); ro.flags.writeable = False; zero = Sv(5); empty = Sv(np.empty((0, 3)))",
        "svb[1] = 7; assert svv[0] == 7 == plain[1] and type(svv) is type(svb) is Sv and type(plain) is np.ndarray and svb.info is svv.info is shared\n"
        "assert alone.tolist() == [1, 2] and alone.info['k'] is svb and owner.info == part.info == 'own' and copy.tolist() == [0, 1, 2]\n"
        "part[0] = 9; assert owner[0] == 9 and copy.info is shared; copy.resize(9, refcheck=False); assert copy.size == 9 and far.shape == (50, 99) and far.info == 1 and far.sum() == 0\n"
        "assert not ro.flags.writeable and zero.shape == () and int(zero) == 5 and empty.shape == (0, 3) and type(empty) is Sv",
    ),
    "arrays of objects, records and dates of a class of the notebook": (
        _SV
        + "o = Sv(np.array([1, [2], None], dtype=object), 'o'); inner = o[1]; ring = Sv(np.array([None, 1], dtype=object)); ring[0] = ring\n"
        "r = np.zeros(3, dtype=[('x', 'i4'), ('o', 'O')]).view(Sv); r.info = 'r'; d = Sv(np.array(['2020-01-01'], 'M8[D]'), 'd')\n"
        "b = Sv(np.arange(9, dtype='>i2').reshape(3, 3), 'b'); f = Sv(np.asfortranarray(np.ones((200, 30))), 'f'); ov = o[1:]\n"
        "class Sl(np.ndarray):\n    __slots__ = ('unit',)\nsl = np.arange(3).view(Sl); sl.unit = 'm'\n"
        "class Own(np.ndarray):\n    def append(self, x): return 1\n    def ravel(self, *a, **k): raise RuntimeError\n    def view(self, *a): raise RuntimeError\nown = np.ndarray.view(np.arange(9), Own); own.tag = 1",
        "assert o[1] is inner and o.info == 'o' and type(o) is Sv and ring[0] is ring and r.info == 'r' and r['o'][0] == 0 and d.info == 'd'\n"
        "assert d[0] == np.datetime64('2020-01-01') and b.info == 'b' and b.dtype == '>i2' and b[2, 1] == 7 and f.flags.f_contiguous and f.info == 'f'\n"
        "o[2] = 'new'; assert ov[1] == 'new' and sl.unit == 'm' and own.tag == 1 and own.sum() == 36",
    ),
    "a class of arrays that says how it is taken apart": (
        "class R(np.ndarray):\n    def __reduce__(self):\n        make, args, state = super().__reduce__(); return make, args, (state, self.info)\n"
        "    def __setstate__(self, state): super().__setstate__(state[0]); self.info = state[1] + 1\nr = np.arange(3).view(R); r.info = 1",
        "assert r.info == 2 and r.tolist() == [0, 1, 2] and type(r) is R",
    ),
    "a masked array and what it looks at share memory and masks": (
        "import numpy as np\nx = np.arange(4.); m = np.ma.array(x, mask=[0, 1, 0, 0]); n = m[1:]; n.units = 'm'; a = np.ma.array([1])",
        "x[3] = 9; assert m[3] == 9 and n.tolist() == [None, 2, 9] and n.units == 'm' and a.mask is np.ma.nomask",
    ),
    "a view writes to its base": (
        "a = np.arange(20.).reshape(4, 5); row = a[1]; col = a[:, 2]; rev = a[::-1, ::2]",
        "row[:] = 7; assert a[1, 0] == 7; col[0] = 9; assert a[0, 2] == 9; assert rev[-1, 1] == 9 and rev.strides == (-40, 16)",
    ),
    "a view inside a container writes to a base in another": (
        "x = {'a': np.zeros(1000)}; y = [x['a'][10:20]]",
        "y[0][:] = 1; assert x['a'].sum() == 10",
    ),
    "two views of one array that has no name overlap": (
        "b = np.zeros(10); u = b[:6]; v = b[4:]; del b",
        "u[4] = 5; assert v[0] == 5",
    ),
    "a transposed array and one in Fortran order keep their layout": (
        "f = np.asfortranarray(np.arange(6.).reshape(2, 3)); t = np.arange(6).reshape(2, 3).T.copy(order='K')",
        "assert f.flags.f_contiguous and not f.flags.c_contiguous and f[1, 2] == 5 and t.strides == (8, 24)",
    ),
    "an array owns its memory and can be resized": (
        "a = np.arange(100000)",
        "a.resize(200000, refcheck=False); assert a[99999] == 99999 and a.flags.owndata",
    ),
    "a read-only array stays so": (
        "a = np.arange(3); a.flags.writeable = False; b = np.ones(9999); b.flags.writeable = False",
        "assert not a.flags.writeable and not b.flags.writeable",
    ),
    "types that have no buffer: dates, objects, texts, records, nothing at all": (
        "d = np.array(['2020-01-01'], 'M8[D]'); o = np.array([1, 'a', None], dtype=object); s = np.array(['ab', 'c'])\n"
        "r = np.zeros(3, dtype=[('x', 'i4'), ('y', 'f8')]); e = np.empty((0, 3)); z = np.array(5.0); b = np.zeros(4, bool)",
        "assert d[0] == np.datetime64('2020-01-01') and o[1] == 'a' and s[0] == 'ab' and r['y'].shape == (3,)\n"
        "assert e.shape == (0, 3) and z.shape == () and z == 5 and b.dtype == bool and r.dtype.names == ('x', 'y')",
    ),
    "a view of an array of objects": (
        "o = np.array([[1, 2], [3, 4]], dtype=object); v = o[:, 1]",
        "v[0] = 'x'; assert o[0, 1] == 'x'",
    ),
    "an array over a bytearray": (
        "b = bytearray(16); a = np.frombuffer(b, dtype='f8')",
        "a[0] = 1.0; assert bytes(b[:8]) != bytes(8)",
    ),
    "a masked array and a matrix": (
        "m = np.ma.array([1, 2, 3], mask=[0, 1, 0])",
        "assert m.sum() == 4 and m.mask[1]",
    ),
    "random generators go on where they were": (
        "import random; random.seed(5); np.random.seed(6); g = np.random.default_rng(7); g.random()\n"
        "r = random.Random(3); r.random()\n"
        "import copy; want = (random.Random(), copy.deepcopy(g).random(), copy.copy(r).random())\n"
        "want[0].setstate(random.getstate()); w2 = np.random.RandomState(); w2.set_state(np.random.get_state())",
        "import random\nassert random.random() == want[0].random() and np.random.rand() == w2.rand()\n"
        "assert g.random() == want[1] and r.random() == want[2]",
    ),
    "numpy's print options and error handling": (
        "np.set_printoptions(precision=2); np.seterr(divide='raise')",
        "assert np.get_printoptions()['precision'] == 2 and np.geterr()['divide'] == 'raise'",
    ),
}

PANDAS = {
    "a frame and its head are apart, as pandas has them": (
        "df = pd.DataFrame(np.random.rand(1000, 3), columns=list('abc')); h = df.head(); c = df['a']; same = df",
        "was = df.iloc[0, 0]; h.iloc[0, 0] = -1; assert df.iloc[0, 0] == was; c.iloc[1] = -2; assert df.iloc[1, 0] != -2\n"
        "assert same is df; df.iloc[2, 2] = -3; assert h.iloc[2, 2] != -3",
    ),
    "frames of all kinds of columns": (
        "df = pd.DataFrame({'i': [1, 2], 's': ['x', None], 'd': pd.to_datetime(['2020-01-01', '2021-01-01']), "
        "'c': pd.Categorical(['a', 'b']), 'n': pd.array([1, None], dtype='Int64'), 'o': [{}, []]}, index=pd.Index([5, 6], name='k'))\n"
        "df.attrs['unit'] = 'm'; tz = pd.date_range('2020', periods=3, tz='Europe/Berlin'); mi = pd.MultiIndex.from_product([[1, 2], ['a', 'b']])\n"
        "s = pd.Series([1.5, 2.5], name='v'); g = df.groupby('i'); iv = pd.interval_range(0, 3)",
        "assert list(map(str, df.dtypes))[3:5] == ['category', 'Int64'] and df.attrs == {'unit': 'm'} and df.index.name == 'k'\n"
        "assert str(tz.tz) == 'Europe/Berlin' and mi.nlevels == 2 and s.name == 'v' and len(g) == 2 and df['n'].isna()[6]",
    ),
    "an index and a series over it are apart": (
        "idx = pd.Index([1., 2., 3.]); s = pd.Series(idx)",
        "s.iloc[0] = 9.; assert idx[0] == 1.",
    ),
    "pandas' options": (
        "pd.set_option('display.max_rows', 7)",
        "assert pd.get_option('display.max_rows') == 7",
    ),
    "pandas' NA is the one NA": ("x = [pd.NA, pd.NaT]", "assert x[0] is pd.NA and x[1] is pd.NaT"),
}

MATPLOTLIB = {
    "a figure, its axes and a line hold each other": (
        "fig, ax = plt.subplots(); line, = ax.plot([1, 2, 3]); ax.set_title('t')",
        "assert ax.figure is fig and fig.axes[0] is ax and line in ax.lines and line.axes is ax and ax.get_title() == 't'\n"
        "line.set_ydata([3, 2, 1]); fig.savefig('x.png')",
    ),
    "pyplot's current figure, with a name and without": (
        "plt.plot([1, 2]); plt.figure(5); plt.plot([3]); plt.figure(1)",
        "assert plt.get_fignums() == [1, 5] and plt.gcf().number == 1 and len(plt.gca().lines) == 1",
    ),
    "rcParams": (
        "plt.rcParams['lines.linewidth'] = 9; rc = plt.rcParams",
        "assert plt.rcParams['lines.linewidth'] == 9 and rc is plt.rcParams",
    ),
    "an array and a line that was drawn from it": (
        "x = np.linspace(0, 1, 5); fig, axs = plt.subplots(2, 2); axs[0, 0].plot(x, x ** 2)",
        "assert axs[0, 0] is fig.axes[0] and (axs[0, 0].lines[0].get_xdata() == x).all()",
    ),
}

LIBRARIES = {"numpy": "import numpy as np", "pandas": "import numpy as np, pandas as pd"}
PYPLOT = "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt, numpy as np"


@pytest.mark.parametrize("trap", NUMPY)
def test_arrays_survive(journey: Journey, trap: str) -> None:
    setup, check = NUMPY[trap]
    journey.take(f"import numpy as np\n{setup}")
    journey.bring_back(check)


@pytest.mark.parametrize("trap", PANDAS)
def test_frames_survive(journey: Journey, trap: str) -> None:
    setup, check = PANDAS[trap]
    journey.take(f"import numpy as np, pandas as pd\n{setup}")
    journey.bring_back(check)


@pytest.mark.parametrize("trap", MATPLOTLIB)
def test_figures_survive(journey: Journey, trap: str) -> None:
    setup, check = MATPLOTLIB[trap]
    journey.take(f"{PYPLOT}\n{setup}")
    journey.bring_back(check, before="import matplotlib; matplotlib.use('agg')")


def test_arrays_of_a_class_of_the_notebook_are_verified(journey: Journey) -> None:
    setup = (
        f"import numpy as np\n{_SV}a = np.arange(3).view(Sv); a.info = [1]; b = a[1:]; c = Sv([1., 2.], 'c'); d = a + 1"
    )
    names = journey.take(setup, verify=True)["names"]
    assert {name: entry["status"] for name, entry in names.items() if entry["status"] != "saved and verified"} == {}


def test_the_head_of_a_large_frame_adds_little(journey: Journey) -> None:
    frame = (
        "import numpy as np, pandas as pd\ndf = pd.DataFrame(np.random.rand(200_000, 10), columns=list('abcdefghij'))"
    )
    assert journey.take(frame)["added_bytes"] > 16_000_000
    assert journey.take(frame.replace("rand(200_000", "rand(100_000"), "h = df.head()")["added_bytes"] < 64 << 10


def test_one_of_twenty_columns_adds_a_twentieth(journey: Journey) -> None:
    frame = "import numpy as np, pandas as pd\ndf = pd.DataFrame({f'c{i}': np.random.rand(50_000) for i in range(20)})"
    added = journey.take(frame, "df['c3'] = np.random.rand(50_000)")["added_bytes"]
    assert added < 0.055 * 20 * 50_000 * 8 + (64 << 10)


def test_an_element_of_a_large_array_adds_about_a_chunk(journey: Journey) -> None:
    added = journey.take("import numpy as np; a = np.zeros(2_000_000); a[:] = np.arange(2_000_000)", "a[3] = 1")
    assert added["added_bytes"] < (1 << 20) + (64 << 10)


def test_appending_to_a_long_list_adds_about_a_block(journey: Journey) -> None:
    added = journey.take("L = [(i, str(i)) for i in range(100_000)]", "L.append((1, 'x'))")
    assert added["added_bytes"] < 160 << 10
    assert added["changes"] == ["L: 100,000 items → 100,001 items"]


def test_nothing_new_adds_next_to_nothing(journey: Journey) -> None:
    cell = "import numpy as np; a = np.random.rand(100_000); d = {i: str(i) for i in range(10_000)}"
    assert journey.take(cell, "pass")["added_bytes"] < 4096
