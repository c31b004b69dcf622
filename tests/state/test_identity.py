"""What is one object stays one object, and what was late-bound stays so: each restored in a fresh process."""

from __future__ import annotations

import pytest

from tests.state.conftest import Journey

TRAPS = {
    "what is not a number is found where it was put": (
        "import math, numpy as np\nnl = [np.nan, 1.5]; nd = {np.nan: 'm'}; ns = {math.nan}; n = np.nan; m = math.nan; t = (np.nan,)\n"
        "o = np.array([np.nan, 'x'], dtype=object); del np, math",
        "import math, numpy as np\nassert np.nan in nl and nd.get(np.nan) == 'm' and math.nan in ns and n is np.nan and m is math.nan\n"
        "assert np.nan in t and o[0] is np.nan and nl[1] == 1.5",
    ),
    "lists that look the same stay as many as they were": (
        "a = [1]; b = [1]; c = [1]; d = b",
        "a.append(2); b.append(3); assert (a, b, c) == ([1, 2], [1, 3], [1]) and d is b",
    ),
    "objects that look the same stay two where two names reach each": (
        "inner = [[1], [1]]; x = {'k': inner[0], 'm': inner[1]}; y = tuple(inner); del inner",
        "x['k'].append(2); assert y == ([1, 2], [1]) and y[1] is x['m']",
    ),
    "objects that hold what looks the same stay apart all the way down": (
        "def make():\n    deep = []\n    return [deep], {'deep': deep}\na, b = make(); c, d = make()",
        "a[0].append(1); assert (b, c, d) == ({'deep': [1]}, [[]], {'deep': []}) and c[0] is d['deep']",
    ),
    "rings that look the same stay two": (
        "a = []; a.append(a); b = []; b.append(b)",
        "a.append(1); assert len(b) == 1 and b[0] is b and a[0] is a",
    ),
    "arrays with views that look the same stay apart": (
        "import numpy as np\na = np.zeros(3); b = a[1:]; c = np.zeros(3); d = c[1:]",
        "b[0] = 7; assert a[1] == 7 and c.tolist() == [0, 0, 0] and d.base is c",
    ),
    "functions and instances that look the same stay two": (
        "def make():\n    def f(): return 1\n    return f\nf = make(); g = make()\nclass P: pass\np = P(); q = P()",
        "f.tag = 1; p.x = 1; assert not hasattr(g, 'tag') and not hasattr(q, 'x') and type(p) is type(q)",
    ),
    "a list bound to two names stays one list": (
        "a = [1, 2]; b = a",
        "b.append(3); assert a == [1, 2, 3] and a is b",
    ),
    "an inner list that two names reach stays one list": (
        "inner = [1]; x = {'k': inner}; y = (inner, 2); del inner",
        "x['k'].append(2); assert y[0] == [1, 2]",
    ),
    "what is shared twice over stays shared": (
        "t = [0]; s = [t]; A = [s, t]; B = [s]; C = {'t': t}; del t, s",
        "assert A[0] is B[0] and A[0][0] is A[1] is C['t']",
    ),
    "objects that hold each other come back with their cycle": (
        "a = {}; b = {'a': a}; a['b'] = b; a['self'] = a",
        "assert a['b'] is b and b['a'] is a and a['self'] is a",
    ),
    "a list that holds itself comes back": ("a = []; a.append(a)", "assert a[0] is a and len(a) == 1"),
    "a tuple bound to two names stays one tuple": (
        "t = ([], 1); u = t; v = {'t': t}",
        "assert t is u and v['t'] is t; t[0].append(1); assert v['t'][0] == [1]",
    ),
    "two lists of the same thousand objects share them": (
        "class P:\n    def __init__(self, n): self.n = n\nA = [P(i) for i in range(1000)]\n"
        "B = sorted(A, key=lambda p: -p.n)\nC = A[500]",
        "assert len(A) == 1000 and all(x is y for x, y in zip(A, reversed(B))); assert C is A[500]",
    ),
    "a function sees what is bound after the restore": (
        "K = 1\ndef f(): return K",
        "assert f() == 1; K = 5; assert f() == 5; assert f.__globals__ is globals()",
    ),
    "functions that call each other still do": (
        "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)",
        "assert even(10) and odd(7)\ndef odd(n): return 'new'\nassert even(3) == 'new'",
    ),
    "two closures share their cell": (
        "def make():\n    n = 0\n    def inc():\n        nonlocal n; n += 1\n    def get(): return n\n"
        "    return inc, get\ninc, get = make()\ninc()",
        "inc(); assert get() == 2; assert inc.__closure__[0] is get.__closure__[0]",
    ),
    "a recursive closure calls itself": (
        "def make():\n    def fact(n): return 1 if n < 2 else n * fact(n - 1)\n    return fact\nfact = make()",
        "assert fact(6) == 720 and fact.__closure__[0].cell_contents is fact",
    ),
    "a closure with an empty cell comes back": (
        "def make():\n    def f(): return later\n    if False: later = 1\n    return f\nf = make()",
        "import pytest\nwith pytest.raises(NameError): f()",
    ),
    "defaults, keyword defaults, annotations and attributes of functions": (
        "log = []\ndef f(a, b=log, *, c: int = 3) -> str:\n    'doc'\n    b.append(a); return c\nf.tag = log",
        "f(1); assert log == [1] and f.tag is log and f.__doc__ == 'doc' and f.__kwdefaults__ == {'c': 3}\n"
        "assert f.__annotations__ == {'c': int, 'return': str} and f(0) == 3",
    ),
    "a generic function and class of Python 3.12": (
        "def first[T](xs: list[T]) -> T: return xs[0]\nclass Box[T]:\n    def __init__(self, v: T): self.v = v\n"
        "b = Box[int](3)\ntype Pair[A] = tuple[A, A]",
        "assert first([3]) == 3 and b.v == 3 and type(b) is Box and first.__type_params__[0].__name__ == 'T'",
    ),
    "an instance's class is the class": (
        "class C:\n    n = []\n    def get(self): return self.x\nc = C(); c.x = 1; d = [C()]",
        "assert type(c) is C is type(d[0]) and isinstance(c, C) and c.get() == 1 and d[0].n is C.n",
    ),
    "super and inheritance work": (
        "class A:\n    def f(self): return 1\nclass B(A):\n    def f(self): return super().f() + 1\nb = B()",
        "assert b.f() == 2 and issubclass(B, A) and B.__mro__[1] is A",
    ),
    "a class and its earlier definition stay two": (
        "class C:\n    v = 1\nold = C()\nclass C:\n    v = 2\nnew = C()",
        "assert type(new) is C and type(old) is not C and old.v == 1 and new.v == 2",
    ),
    "a bound method is bound to the same object": (
        "class C:\n    def __init__(self): self.n = 0\n    def inc(self): self.n += 1\nc = C(); m = c.inc",
        "m(); assert c.n == 1 and m.__self__ is c",
    ),
    "properties, slots, static and class methods": (
        "class C:\n    __slots__ = ('a', '__weakref__')\n    def __init__(self): self.a = 1\n"
        "    @property\n    def p(self): return self.a\n    @staticmethod\n    def s(): return 2\n"
        "    @classmethod\n    def k(cls): return cls\nc = C()",
        "assert c.p == 1 and c.s() == 2 and c.k() is C; import pytest\nwith pytest.raises(AttributeError): c.zzz = 1",
    ),
    "a metaclass and its registry": (
        "class M(type):\n    made = []\n    def __new__(m, n, b, d):\n        c = super().__new__(m, n, b, d)\n"
        "        M.made.append(c); return c\nclass X(metaclass=M): pass",
        "assert type(X) is M and M.made == [X]",
    ),
    "an abstract class and its virtual subclasses": (
        "import abc\nclass A(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\n@A.register\nclass V: pass\nv = V()",
        "assert isinstance(v, A); import pytest\nwith pytest.raises(TypeError): A()",
    ),
    "a class's slots are slots, private ones too": (
        "class C:\n    __slots__ = ('a', '__b')\n    def __init__(self): self.a = 1; self.__b = 2\nc = C()",
        "assert c.a == 1 and c._C__b == 2 and not hasattr(c, '__dict__')",
    ),
    "making a class again does not run what registers subclasses": (
        "class Base:\n    seen = []\n    def __init_subclass__(cls, key, **kw): Base.seen.append((key, cls.__name__))\n"
        "class S(Base, key=1): pass",
        "assert Base.seen == [(1, 'S')]\nclass T(Base, key=2): pass\nassert Base.seen[1] == (2, 'T')",
    ),
    "a metaclass is not run again": (
        "calls = []\nclass M(type):\n    def __new__(m, n, b, d, **kw): calls.append(n); return super().__new__(m, n, b, d)\n"
        "    def __init__(c, n, b, d, *, extra): super().__init__(n, b, d)\nclass X(metaclass=M, extra=1): pass\nx = X()",
        "assert calls == ['X'] and type(x) is X and type(X) is M",
    ),
    "an enum's members, aliases and attributes": (
        "import enum\nclass P(enum.Enum):\n    A = (1, 2)\n    B = (3, 4)\n    C = (1, 2)\n"
        "    def __init__(self, m, r): self.m = m; self.r = r\n    @property\n    def s(self): return self.m + self.r\n"
        "class F(enum.Flag):\n    X = enum.auto()\n    Y = enum.auto()\nclass I(enum.IntEnum):\n    ONE = 1\n"
        "a = P.A; d = {P.B: 1}; f = F.X | F.Y; i = I.ONE",
        "assert a is P.A and P.C is P.A and a.s == 3 and P.B.m == 3 and d[P.B] == 1 and f == F.X | F.Y and list(P) == [P.A, P.B]\n"
        "assert i is I.ONE and i == 1 and P((3, 4)) is P.B",
    ),
    "the namespace as a value is the namespace": ("g = globals(); x = 1", "assert g is globals() and g['x'] == 1"),
    "an alias of a module's object is that object": (
        "import os, sys, logging\nenv = os.environ; root = logging.root; out = sys.stdout; mods = sys.modules",
        "import os, sys, logging\nassert env is os.environ and root is logging.getLogger() and out is sys.stdout\n",
    ),
    "code run in a dict of its own keeps that dict": (
        "d = {}; exec('K = 1\\ndef f(): return K', d); f = d['f']",
        "assert f() == 1; d['K'] = 2; assert f() == 2 and f.__globals__ is d",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_identity_survives(journey: Journey, trap: str) -> None:
    setup, check = TRAPS[trap]
    journey.take(setup)
    journey.bring_back(check)
