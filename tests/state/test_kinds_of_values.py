"""Python's own types, and state that is not a variable: each restored in a fresh process."""

from __future__ import annotations

import pytest

from tests.state.conftest import Journey

TRAPS = {
    "a lock that is held, and one that is free": (
        "import threading; a = threading.Lock(); a.acquire(); b = threading.Lock(); r = threading.RLock(); r.acquire()",
        "assert a.locked() and not b.locked(); r.release(); a.release()",
    ),
    "events, conditions, semaphores and queues": (
        "import threading, queue; e = threading.Event(); e.set(); c = threading.Condition(); s = threading.Semaphore(3)\n"
        "q = queue.Queue(); q.put(1); sq = queue.SimpleQueue(); sq.put(2); pq = queue.PriorityQueue(); pq.put((1, 'a'))",
        "assert e.is_set() and s._value == 3 and q.get() == 1 and sq.get() == 2 and pq.get() == (1, 'a')\nwith c: c.notify_all()",
    ),
    "thread-local data": ("import threading; t = threading.local(); t.x = 1", "assert t.x == 1"),
    "weak references to what lives and to what is gone": (
        "import weakref\nclass C: pass\nc = C(); w = weakref.ref(c); gone = weakref.ref(C())\n"
        "wv = weakref.WeakValueDictionary(a=c); wk = weakref.WeakKeyDictionary({c: 1}); ws = weakref.WeakSet([c])",
        "assert w() is c and gone() is None and wv['a'] is c and wk[c] == 1 and c in ws",
    ),
    "a cached function": (
        "import functools\n@functools.lru_cache(maxsize=7)\ndef f(x): 'doc'; return x + K\nK = 1; f(1)\n@functools.cache\ndef g(x): return g(x - 1) if x else 0",
        "assert f(1) == 2 and f.cache_parameters()['maxsize'] == 7 and f.__doc__ == 'doc' and g(5) == 0",
    ),
    "a cached property and a partial": (
        "import functools\nclass C:\n    @functools.cached_property\n    def p(self): return [1]\nc = C(); c.p; d = C(); f = functools.partial(pow, 2)",
        "assert c.p == [1] and d.p == [1] and f(3) == 8",
    ),
    "a function for each type": (
        "import functools\n@functools.singledispatch\ndef f(x): return 'any'\n@f.register\ndef _(x: int): return 'int'",
        "assert f(1) == 'int' and f('a') == 'any'; f.register(str, lambda x: 'str'); assert f('a') == 'str'",
    ),
    "dataclasses": (
        "import dataclasses\n@dataclasses.dataclass(order=True)\nclass D:\n    a: int\n    b: list = dataclasses.field(default_factory=list)\n"
        "@dataclasses.dataclass(frozen=True, slots=True)\nclass F:\n    x: int = 3\nd = D(1); f = F()",
        "import dataclasses\nassert d == D(1) and D(0) < d and dataclasses.replace(d, a=5).a == 5 and f.x == 3 and hash(f) == hash(F())\n"
        "assert dataclasses.fields(D)[0].default is dataclasses.MISSING and dataclasses.asdict(f) == {'x': 3}",
    ),
    "named tuples": (
        "import collections, typing\nP = collections.namedtuple('P', 'x y')\nclass Q(typing.NamedTuple):\n    a: int\n    b: str = 'z'\np = P(1, 2); q = Q(3); l = [p]",
        "assert p.x == 1 and type(p) is P and q.b == 'z' and isinstance(q, Q) and l[0] is p and p._replace(x=5).x == 5",
    ),
    "containers of collections": (
        "import collections\nod = collections.OrderedDict(a=1); dd = collections.defaultdict(list, x=[1]); dq = collections.deque([1, 2], maxlen=2)\n"
        "ct = collections.Counter('aab'); cm = collections.ChainMap(dd, od); ks = od.keys()",
        "dd['new'].append(1); dq.append(3); assert list(dq) == [2, 3] and ct['a'] == 2 and cm['x'] == [1]\nod['b'] = 2; assert 'b' in ks and cm.maps[1]['b'] == 2",
    ),
    "exceptions with their causes": (
        "class E(Exception):\n    def __init__(self, a, b): super().__init__(f'{a}-{b}'); self.a = a\ntry:\n    try: 1 / 0\n    except ZeroDivisionError as z: raise E(1, 2) from z\n"
        "except E as err: e = err; e.add_note('n')\no = FileNotFoundError(2, 'no', 'f.txt'); g = ExceptionGroup('g', [ValueError(1)]); u = UnicodeDecodeError('utf-8', b'x', 0, 1, 'r')",
        "assert type(e) is E and e.a == 1 and str(e) == '1-2' and isinstance(e.__cause__, ZeroDivisionError) and e.__notes__ == ['n']\n"
        "assert o.filename == 'f.txt' and o.errno == 2 and g.exceptions[0].args == (1,) and u.reason == 'r'",
    ),
    "iterators in their middle": (
        "import itertools\nit = iter([1, 2, 3]); next(it); c = itertools.count(5); next(c); z = zip([1, 2], 'ab'); next(z); e = enumerate('xyz'); next(e); r = reversed([1, 2, 3]); next(r)",
        "assert list(it) == [2, 3] and next(c) == 6 and list(z) == [(2, 'b')] and next(e) == (1, 'y') and list(r) == [2, 1]",
    ),
    "matches of regular expressions": (
        "import re; m = re.search('(?P<k>b+)', 'abbc'); f = list(re.finditer('a', 'banana'))[1]; p = re.compile('x', re.I); n = re.match('q', 'z')",
        "assert m['k'] == 'bb' and m.span() == (1, 3) and f.start() == 3 and p.match('X') and n is None",
    ),
    "context variables": (
        "import contextvars; v = contextvars.ContextVar('v', default=1); v.set(2); w = contextvars.ContextVar('w')",
        "assert v.get() == 2 and w.get(None) is None and v.name == 'v'",
    ),
    "context variables with a default, set and not set": (
        "import contextvars; c = contextvars.ContextVar('c', default=[1]); d = contextvars.ContextVar('d', default=None)\n"
        "e = contextvars.ContextVar('e', default=[]); e.set([2]); f = contextvars.ContextVar('f'); shared = c.get()",
        "import contextvars\nempty = contextvars.Context()\nassert c.get() == [1] and c.get() is shared and d.get() is None\n"
        "assert e.get() == [2] and empty.run(e.get) == [] and c not in contextvars.copy_context()\n"
        "try: f.get()\nexcept LookupError: pass\nelse: raise AssertionError",
    ),
    "the time zone": (
        "import os, time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
        "import time; assert time.localtime(0).tm_hour == 9 and time.tzname[0] == 'JST', time.tzname",
    ),
    "names with underscores": ("_p = [1]; __q = 2; _ = 3", "assert _p == [1] and globals()['__q'] == 2 and _ == 3"),
    "what a library's function has made for its package, in a class of its own": (
        "from sympy import test, doctest\nkept = [test]",
        "import sympy\nassert test is sympy.test and doctest is sympy.doctest and kept[0] is test",
    ),
    "tables of polars, of one chunk and of several": (
        "import polars as pl\none = pl.DataFrame({'a': [1, 2], 'b': ['x', None]}); several = pl.concat([one, one], rechunk=False)\n"
        "column = several['b']; kinds = pl.concat([one.cast({'b': pl.Categorical})] * 2, rechunk=False); empty = pl.DataFrame()\n"
        "rule = pl.col('a').sum().over('b') > 1",
        "assert one.rows() == [(1, 'x'), (2, None)] and several.equals(pl.concat([one, one])) and several.n_chunks() == 2\n"
        "assert column.to_list() == ['x', None] * 2 and column.name == 'b' and kinds['b'].to_list() == column.to_list()\n"
        "assert kinds.schema['b'] == pl.Categorical and empty.shape == (0, 0)\n"
        "assert several.select(rule)['a'].to_list() == [True] * 4",
    ),
    "names from a star import, submodules and aliases of modules": (
        "from math import *\nimport os.path as osp, xml, xml.dom.minidom, importlib.metadata\nfrom json import dumps as d\nmi = (min, max, len)",
        "import math\nassert sqrt is math.sqrt and osp.join('a', 'b') and xml.dom.minidom.parseString('<a/>') and d([]) == '[]' and mi[2] is len",
    ),
    "a module that no file stands behind": (
        "import types, sys; m = types.ModuleType('made'); m.x = [1]; sys.modules['made'] = m; exec('def f(): return x', m.__dict__); f = m.f",
        "import made; assert made is m and f() == [1]; made.x = 5; assert f() == 5",
    ),
    "an open file goes on at its place": (
        "open('r.txt', 'w').write('one\\ntwo\\nthree\\n'); r = open('r.txt'); r.readline()\nw = open('w.txt', 'w'); w.write('abc'); w.flush(); w.write('def')\n"
        "b = open('r.txt', 'rb'); b.read(4); a = open('a.txt', 'a'); a.write('x'); a.flush(); c = open('r.txt'); c.close()",
        "assert r.readline() == 'two\\n' and b.readline() == b'two\\n' and c.closed\nw.write('ghi'); w.close()\n"
        "assert open(w.name).read() == 'abcdefghi', open(w.name).read(); a.write('y'); a.close(); assert open(a.name).read() == 'xy'",
    ),
    "streams in memory": (
        "import io; s = io.StringIO('a\\nb'); s.readline(); b = io.BytesIO(b'abc'); b.read(1); ba = bytearray(b'x' * 100_000); v = memoryview(ba)",
        "assert s.read() == 'b' and b.read() == b'bc'; ba[0] = 0; assert v[0] == 0",
    ),
    "an SQLite database in memory": (
        "import sqlite3; db = sqlite3.connect(':memory:'); db.row_factory = sqlite3.Row; db.execute('create table t (a)'); db.execute('insert into t values (7)'); db.commit()",
        "assert db.execute('select a from t').fetchone()['a'] == 7; db.execute('insert into t values (8)')",
    ),
    "an idle pool of threads and a future with its result": (
        "from concurrent.futures import ThreadPoolExecutor; ex = ThreadPoolExecutor(2); f = ex.submit(pow, 2, 3); f.result()",
        "assert f.result() == 8 and ex.submit(pow, 3, 2).result(20) == 9; ex.shutdown()",
    ),
    "long texts and bytes, once for all their names": (
        "t = 'é' * 100_000; u = t; b = bytes(range(256)) * 1000; l = [b, b, t]",
        "assert t is u and l[0] is b is l[1] and l[2] is t and len(t) == 100_000 and b[255] == 255",
    ),
    "numbers, dates, paths and the like": (
        "import datetime, decimal, fractions, pathlib, uuid, zoneinfo\nv = [1, 2.5, 1j, None, True, ..., NotImplemented, range(3), slice(1, 2), float('nan'), 10 ** 50, decimal.Decimal('1.1'), fractions.Fraction(1, 3), "
        "datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo('UTC')), pathlib.Path('x'), uuid.UUID(int=1), frozenset({1}), {1, 2}, int, list[int], dict, type(None)]",
        "assert v[5] is ... and v[6] is NotImplemented and v[10] == 10 ** 50 and str(v[13].tzinfo) == 'UTC' and v[18] is int and v[19] == list[int] and v[21] is type(None)",
    ),
    "typing's variables and aliases": (
        "import typing\nT = typing.TypeVar('T', bound=int)\nclass B(typing.Generic[T]):\n    x: T\nA = typing.Optional[int]\nclass TD(typing.TypedDict):\n    a: int\n"
        "class Pr(typing.Protocol):\n    def f(self) -> int: ...\n@typing.runtime_checkable\nclass PR(typing.Protocol):\n    def f(self) -> int: ...\nclass Im:\n    def f(self): return 1",
        "import typing\nassert B.__parameters__ == (T,) and A == typing.Optional[int] and TD(a=1) == {'a': 1} and T.__bound__ is int and isinstance(Im(), PR)",
    ),
    "an instance that is pickled by the name it is found under": (
        "class S:\n    def __reduce__(self): return 'ONE'\nONE = S(); d = [ONE]",
        "assert d[0] is ONE and type(ONE) is S",
    ),
    "state hooks of instances are used": (
        "class C:\n    def __getstate__(self): return {'x': self.x}\n    def __setstate__(self, s): self.x = s['x']; self.again = True\nc = C(); c.x = 1; c.big = 2",
        "assert c.x == 1 and c.again and not hasattr(c, 'big')",
    ),
    "a descriptor, a callable instance and an operator": (
        "import operator\nclass D:\n    def __set_name__(self, o, n): self.n = n\n    def __get__(self, o, t): return self.n\nclass C:\n    d = D()\n    def __call__(self): return 1\nc = C(); g = operator.itemgetter(1); a = operator.attrgetter('d')",
        "assert c.d == 'd' and c() == 1 and g([1, 2]) == 2 and a(c) == 'd'",
    ),
    "a coroutine function, a generator function and a lambda": (
        "import asyncio\nasync def f(x): return x + K\ndef g():\n    yield K\nh = lambda x, *a, k=2, **kw: (x, a, k, kw)\nK = 1",
        "import asyncio\nassert asyncio.run(f(1)) == 2 and list(g()) == [1] and h(1, 2, z=3) == (1, (2,), 2, {'z': 3})",
    ),
    "a decorated function": (
        "import functools\nlog = []\ndef deco(fn):\n    @functools.wraps(fn)\n    def w(*a):\n        log.append(a); return fn(*a)\n    return w\n@deco\ndef f(x): return x",
        "assert f(3) == 3 and log == [(3,)] and f.__wrapped__(4) == 4 and f.__name__ == 'f'",
    ),
    "a context manager, a random sample and a logger": (
        "import contextlib, logging\n@contextlib.contextmanager\ndef cm(): yield 5\nlg = logging.getLogger('a.b'); lg.setLevel(10); logging.getLogger('q').setLevel('ERROR')",
        "import logging\nwith cm() as v: assert v == 5\nassert lg is logging.getLogger('a.b') and lg.level == 10 and logging.getLogger('q').level == 40",
    ),
    "the folder, the environment, the path, filters of warnings and limits": (
        "import os, sys, warnings, decimal; os.mkdir('sub'); os.chdir('sub'); os.environ['CAPSULE_T'] = '1'; os.environ.pop('LANG', None); sys.path.append('/nowhere'); warnings.simplefilter('error', BytesWarning); "
        "sys.setrecursionlimit(5000); decimal.getcontext().prec = 7",
        "import os, sys, warnings, decimal\nassert os.getcwd().endswith('work/sub') and os.environ['CAPSULE_T'] == '1' and 'LANG' not in os.environ and '/nowhere' in sys.path\n"
        "assert warnings.filters[0][2] is BytesWarning and sys.getrecursionlimit() == 5000 and decimal.getcontext().prec == 7",
    ),
    "objects of a module beside the notebook": (
        "open('beside.py', 'w').write('class K:\\n    pass\\nS = K()\\ndef f(): return S')\nimport sys; sys.path.insert(0, ''); import beside; k = beside.K(); s = beside.S; f = beside.f",
        "import beside\nassert type(k) is beside.K and s is beside.S and f is beside.f",
    ),
    "variables of a module beside the notebook": (
        "open('beside.py', 'w').write('n = 0\\nitems = []\\ndef inc():\\n    global n; n += 1\\n    items.append(n); return n')\nimport sys; sys.path.insert(0, ''); import beside; beside.inc(); beside.inc(); alias = beside.items",
        "import beside\nassert beside.n == 2 and beside.inc() == 3 and alias is beside.items and alias == [1, 2, 3]",
    ),
    "the source of a function that was typed": (
        "import linecache\ntext = 'def f():\\n    return 1\\n'\nlinecache.cache['<cell 1>'] = (len(text), None, text.splitlines(True), '<cell 1>')\nexec(compile(text, '<cell 1>', 'exec'))",
        "import inspect\nassert inspect.getsource(f) == text",
    ),
    "a deep list and a long chain of objects": (
        "deep = []\nfor _ in range(300): deep = [deep]\nclass N:\n    def __init__(s, n): s.n = n\nhead = None\nfor _ in range(20_000): head = N(head)",
        "n, x = 0, head\nwhile x: n, x = n + 1, x.n\nassert n == 20_000\nd = 0\nwhile deep: deep = deep[0]; d += 1\nassert d == 300",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_values_survive(journey: Journey, trap: str) -> None:
    setup, check = TRAPS[trap]
    journey.take(setup)
    journey.bring_back(check)


LIVE_ONLY = {
    "a generator": ("x = (i for i in range(3))", "generator"),
    "a coroutine": ("async def f(): pass\nx = f()", "coroutine"),
    "a plan of polars": ("import polars; x = polars.LazyFrame({'a': [1]})", "a plan of polars"),
    "a socket": ("import socket; x = socket.socket()", "connection"),
    "a child process": ("import subprocess; x = subprocess.Popen(['true'])", "child process"),
    "a process of multiprocessing": (
        "import multiprocessing as mp; x = mp.get_context('fork').Process(target=int); x.start()",
        "child process",
    ),
    "a pool of processes": (
        "from concurrent.futures import ProcessPoolExecutor; x = ProcessPoolExecutor(1)",
        "child processes",
    ),
    "a pool of multiprocessing": ("import multiprocessing.pool as pool; x = pool.ThreadPool(1)", "a pool of threads"),
    "a task": (
        "import asyncio; loop = asyncio.new_event_loop(); x = loop.create_task(asyncio.sleep(1))",
        "a task that has not ended",
    ),
    "a future of asyncio": (
        "import asyncio; loop = asyncio.new_event_loop(); x = loop.create_future()",
        "a future that has not ended",
    ),
    "a callback that an event loop has to run": (
        "import asyncio; loop = asyncio.new_event_loop(); x = loop.call_later(1, print)",
        "has to run",
    ),
    "a closed socket of a rare kind": (
        "import socket; x = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); x.close()",
        "a rare kind",
    ),
    "an event loop": ("import asyncio; x = asyncio.new_event_loop()", "an event loop"),
    "a thread that runs": (
        "import threading; x = threading.Thread(target=threading.Event().wait, daemon=True); x.start()",
        "thread",
    ),
    "a pool that was shut down and still works": (
        "import threading; from concurrent.futures import ThreadPoolExecutor; stop = threading.Event()\n"
        "x = ThreadPoolExecutor(); f = x.submit(stop.wait, 5); x.shutdown(wait=False)",
        "threads",
    ),
    "a temporary folder": ("import tempfile; x = tempfile.TemporaryDirectory()", "temporary"),
    "an error of __reduce__": ("class C:\n    def __reduce__(self): raise RuntimeError('no!')\nx = C()", "no!"),
    "a hash object": ("import hashlib; x = hashlib.md5()", "pickle"),
    "a database in a transaction": (
        "import sqlite3; x = sqlite3.connect(':memory:'); x.execute('create table t (a)'); x.execute('insert into t values (1)')",
        "transaction",
    ),
    "a pending future": ("from concurrent.futures import Future; x = Future()", "outcome"),
    "shared memory": ("import mmap; x = mmap.mmap(-1, 10)", "shared"),
    "out of memory": ("class C:\n    def __reduce__(self): raise MemoryError\nx = C()", "memory"),
    "a frame": ("import sys; x = sys._getframe()", "frame"),
}


@pytest.mark.parametrize("trap", LIVE_ONLY)
def test_what_cannot_be_saved_is_named_with_its_reason_and_harms_nothing_else(journey: Journey, trap: str) -> None:
    setup, reason = LIVE_ONLY[trap]
    took = journey.take(f"shared = [1]\nfine = [shared]\n{setup}\nholder = {{'x': x, 'shared': shared}}")
    assert took["names"]["x"]["status"] == took["names"]["holder"]["status"] == "live only"
    assert reason in took["names"]["x"]["reason"]
    assert took["names"]["holder"]["reason"].startswith("it holds 'x': ")
    back = journey.bring_back("assert fine[0] is shared and 'x' not in globals() and 'holder' not in globals()")
    assert back["names"]["x"]["status"] == "lost"
    assert reason in back["names"]["x"]["reason"]


def test_a_secret_is_not_written_down_wherever_it_is_reached(journey: Journey) -> None:
    took = journey.take(
        "internal = ['hunter2']\nimport os\npw = ''.join(['hunter', '2'])\nd = {'a': [pw]}\ndef f(p=pw): return p\n"
        "os.environ['PW'] = pw\nplain = 'x'",
    )
    for name in ("pw", "d", "f"):
        assert took["names"][name]["status"] == "live only"
        assert "getpass" in took["names"][name]["reason"]
    assert took["extras"]["environ/PW"]["status"] == "live only"
    assert took["names"]["plain"]["status"] == "saved"
    for path in journey.store.rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes(), path


def test_a_lock_held_while_other_threads_ran_is_live_only(journey: Journey) -> None:
    took = journey.take(
        "import threading; a = threading.Lock(); a.acquire(); b = threading.Lock()", has_foreign_threads=True
    )
    assert took["names"]["a"]["status"] == "live only"
    assert took["names"]["b"]["status"] == "saved"


def test_writing_down_an_open_file_writes_nothing_to_it(journey: Journey) -> None:
    journey.take(
        "f = open('f.txt', 'w'); f.write('pending')", "g = 1", "f.flush(); assert open('f.txt').read() == 'pending'"
    )


def test_outputs_are_the_same_objects_as_the_variables(journey: Journey) -> None:
    journey.take(
        "a = [1]; internal_out = {3: a, 4: (i for i in a)}",
        extras="{f'outputs/{n}': v for n, v in internal_out.items()}",
    )
    back = journey.bring_back("assert extras['outputs/3'] is a and 'outputs/4' not in extras")
    assert back["around"]["outputs/4"]["status"] == "lost"


def test_variables_of_a_module_that_was_edited_since_are_its_own(journey: Journey) -> None:
    (journey.work / "beside.py").write_text("n = 1")
    journey.take("import sys; sys.path.insert(0, ''); import beside; beside.n = 2")
    (journey.work / "beside.py").write_text("n = 10  # edited")
    back = journey.bring_back("import beside; assert beside.n == 10")
    assert "was changed since" in back["around"]["modules/beside/n"]["reason"]
