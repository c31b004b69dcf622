"""Exceptions with all that they carry: each restored in a fresh process, without its class's constructor."""

from __future__ import annotations

import pytest

from tests.state.conftest import Journey

EXCEPTIONS = {
    "builtin exceptions with fields of their own": (
        "i = ImportError('no', name='n', path='p'); m = ModuleNotFoundError('no', name='m'); bare = ImportError(name='q')\n"
        "owner = [1]; a = AttributeError('no', name='x', obj=owner); n = NameError('no', name='y'); u = UnboundLocalError('no', name='z')\n"
        "s = StopIteration(owner, 2); x = SystemExit(3); x2 = SystemExit(); k = KeyError('k'); k.args = ('other', 2)\n"
        "x.code = 4; i.msg = 'changed'; none = StopIteration()",
        "assert (i.name, i.path, i.msg, i.args) == ('n', 'p', 'changed', ('no',)) and (m.name, m.path) == ('m', None)\n"
        "assert bare.name == 'q' and bare.args == () and a.name == 'x' and a.obj is owner and n.name == 'y' and u.name == 'z'\n"
        "assert s.value is owner and s.args == (owner, 2) and x.code == 4 and x.args == (3,) and x2.code is None\n"
        "assert k.args == ('other', 2) and str(a) == 'no' and none.value is None and none.args == ()",
    ),
    "errors of the system": (
        "o = OSError(5, 'io', 'a', None, 'b'); f = FileNotFoundError(2, 'no', 'f'); b = BlockingIOError(11, 'w', 7)\n"
        "t = OSError('just text'); c = OSError(); c.errno = 2; c.strerror = 's'; c.filename = 'g'; many = OSError(1, 2, 3, 4, 5, 6)\n"
        "d = OSError(); d.args = (2, 'not a FileNotFoundError'); text = list(map(str, (o, f, b, t, c, d)))",
        "assert (o.errno, o.strerror, o.filename, o.filename2, o.args) == (5, 'io', 'a', 'b', (5, 'io'))\n"
        "assert f.filename == 'f' and f.filename2 is None and type(f) is FileNotFoundError and b.characters_written == 7 and b.filename is None\n"
        "assert not hasattr(f, 'characters_written') and t.args == ('just text',) and t.errno is None\n"
        "assert (c.errno, c.strerror, c.filename, c.args) == (2, 's', 'g', ()) and type(d) is OSError and d.errno is None\n"
        "assert many.args == (1, 2, 3, 4, 5, 6) and list(map(str, (o, f, b, t, c, d))) == text",
    ),
    "errors of syntax and of encodings": (
        "try: compile('a b', 'file', 'exec')\nexcept SyntaxError as e: s = e\n"
        "t = IndentationError('m', ('f', 1, 2, 'text', 3, 4)); t.lineno = 9; t.print_file_and_line = True; bare = SyntaxError('only')\n"
        "try: b'\\xff'.decode()\nexcept UnicodeDecodeError as e: u = e\n"
        "v = UnicodeEncodeError('ascii', 'äö', 0, 1, 'why'); v.end = 2; v.reason = 'new'; w = UnicodeTranslateError('abc', 1, 2, 'r')\n"
        "p = UnicodeError('plain'); text = list(map(str, (s, t, u, v, w, p)))",
        "assert s.filename == 'file' and s.lineno == 1 and s.text and s.end_offset and t.lineno == 9 and t.end_offset == 4 and t.offset == 2\n"
        "assert t.print_file_and_line is True and bare.msg == 'only' and bare.lineno is None and u.object == b'\\xff' and u.encoding == 'utf-8'\n"
        "assert (v.start, v.end, v.reason, v.object, v.args[3:]) == (0, 2, 'new', 'äö', (1, 'why')) and w.start == 1 and w.object == 'abc'\n"
        "assert list(map(str, (s, t, u, v, w, p))) == text and p.args == ('plain',)",
    ),
    "groups of exceptions": (
        "v = ValueError(1); g = ExceptionGroup('g', [v, OSError(2, 'no', 'f')]); b = BaseExceptionGroup('b', [KeyboardInterrupt(), g])\n"
        "class MyGroup(ExceptionGroup):\n    def __new__(cls, errors, code):\n        made = super().__new__(cls, 'mine', errors); made.code = code; return made\n"
        "    def __init__(self, errors, code): pass\n    def derive(self, errors): return MyGroup(errors, self.code)\n"
        "h = MyGroup([v], 5); g.add_note('noted'); h.args = ('odd',)",
        "assert g.exceptions[0] is v and g.message == 'g' and g.exceptions[1].filename == 'f' and g.__notes__ == ['noted']\n"
        "assert b.exceptions[1] is g and type(b) is BaseExceptionGroup and type(h) is MyGroup and h.code == 5 and h.exceptions == (v,)\n"
        "assert h.message == 'mine' and h.args == ('odd',) and g.split(ValueError)[0].exceptions[0] is v",
    ),
    "causes, contexts, notes and cycles of them": (
        "a = ValueError(1); b = KeyError(2); a.__cause__ = b; b.__context__ = a; a.__suppress_context__ = False; a.add_note('n')\n"
        "c = TypeError(); c.__suppress_context__ = True; c.args = (c,); c.me = c; d = AttributeError(name='x'); d.obj = d",
        "assert a.__cause__ is b and b.__context__ is a and not a.__suppress_context__ and a.__notes__ == ['n'] and not hasattr(b, '__notes__')\n"
        "assert c.__suppress_context__ and c.args[0] is c.me is c and d.obj is d",
    ),
    "classes of the notebook, their constructors not called": (
        "calls = []\nclass HE(OSError):\n    def __init__(self, url, code):\n        calls.append(url); self.url = url; self.code = code\n"
        "class Super(OSError):\n    def __init__(self, url, code): calls.append(url); super().__init__(code, 'failed', url); self.url = url\n"
        "class Imp(ImportError):\n    def __init__(self, thing): calls.append(thing); super().__init__('no ' + thing, name=thing)\n"
        "class Plain(FileNotFoundError): pass\nclass Stop(StopIteration):\n    def __init__(self, a, b): calls.append(a); super().__init__((a, b))\n"
        "class New(ValueError):\n    def __new__(cls, a, b): calls.append(a); return super().__new__(cls, a, b)\n"
        "class Slots(AttributeError):\n    __slots__ = ('extra',)\n    def __init__(self, extra): super().__init__('m', name='nm'); self.extra = extra\n"
        "class Both(KeyError, AttributeError):\n    def __init__(self, key): super().__init__(key); self.name = key\n"
        "class Hidden(SystemExit):\n    @property\n    def code(self): return 'hidden'\n    args = 'hidden'\n"
        "class De(UnicodeDecodeError):\n    def __init__(self, data): super().__init__('ascii', data, 0, 1, 'r')\n"
        "he = HE('u', 404); su = Super('u', 7); im = Imp('thing'); pl = Plain(2, 'no', 'f'); st = Stop(1, [2]); ne = New(1, 2); sl = Slots([3])\n"
        "bo = Both('key'); hi = Hidden(5); de = De(b'abc'); calls.clear(); before = [(str(e), e.args) for e in (he, su, im, pl, st, ne, sl, bo, hi, de)]",
        "import builtins\nassert calls == [] and [(str(e), e.args) for e in (he, su, im, pl, st, ne, sl, bo, hi, de)] == before, before\n"
        "assert (he.url, he.code, he.errno, he.args) == ('u', 404, None, ()) and (su.errno, su.filename, su.args) == (7, 'u', (7, 'failed'))\n"
        "assert im.name == 'thing' and pl.filename == 'f' and type(pl) is Plain and st.value == (1, [2]) and ne.args == (1, 2)\n"
        "assert sl.extra == [3] and sl.name == 'nm' and bo.name == 'key' and SystemExit.code.__get__(hi) == 5 and hi.code == 'hidden'\n"
        "assert de.object == b'abc' and de.reason == 'r'",
    ),
    "classes that say how they are taken apart": (
        "class R(Exception):\n    def __reduce__(self): return R, ('reduced',)\nclass X(ImportError):\n    def __reduce_ex__(self, _): return X, ('reduced',)\nr = R(1); x = X(1)",
        "assert r.args == x.args == ('reduced',) and type(r) is R and type(x) is X",
    ),
    "exceptions of libraries": (
        "import json, urllib.error, subprocess, socket, asyncio, sqlite3, zlib, ssl, requests\n"
        "try: json.loads('{')\nexcept ValueError as e: j = e\n"
        "h = urllib.error.URLError('why', 'file'); c = subprocess.CalledProcessError(3, ['cmd'], b'out'); g = socket.gaierror(1, 'no')\n"
        "t = asyncio.IncompleteReadError(b'x', 4); q = sqlite3.OperationalError('q'); q.sqlite_errorcode = 7; s = ssl.SSLError(1, 'ssl')\n"
        "r = requests.HTTPError('404', response=None); r.errno = 6; import numpy as np\n"
        "try: np.zeros(3)[5]\nexcept IndexError as e: i = e\n"
        "try: np.zeros(3).sum(axis=5)\nexcept ValueError as e: ax = e; axt = str(e)",
        "assert (j.pos, j.doc, str(j)) == (1, '{', str(j)) and h.reason == 'why' and h.filename == 'file' and c.returncode == 3 and c.output == b'out'\n"
        "assert g.errno == 1 and t.expected == 4 and t.partial == b'x' and q.sqlite_errorcode == 7 and s.errno == 1\n"
        "assert str(r) == '[Errno 6] 404' or r.errno == 6\nassert i.args and str(ax) == axt",
    ),
}


@pytest.mark.parametrize("trap", EXCEPTIONS)
def test_exceptions_survive(journey: Journey, trap: str) -> None:
    setup, check = EXCEPTIONS[trap]
    journey.take(setup)
    journey.bring_back(check)


def test_exceptions_are_verified(journey: Journey) -> None:
    setup = (
        "class E(OSError):\n    def __init__(self, url): self.url = url\ne = E('u'); a = AttributeError('no', name='x', obj=[1])\n"
        "g = ExceptionGroup('g', [a]); u = UnicodeEncodeError('ascii', 'ä', 0, 1, 'why'); o = OSError(2, 'no', 'f')"
    )
    names = journey.take(setup, verify=True)["names"]
    assert {entry["status"] for entry in names.values()} == {"saved and verified"}, names
