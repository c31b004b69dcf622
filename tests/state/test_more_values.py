"""More of what notebooks hold: each restored in a fresh process."""

from __future__ import annotations

import pytest

from tests.state.conftest import Journey

TRAPS = {
    "classes of attrs": (
        "import attr\n@attr.s(auto_attribs=True)\nclass A:\n    x: int = 1\n    y: list = attr.Factory(list)\n@attr.define\nclass B:\n    z: int = 2\n    def up(self): return super().__repr__()\na=A(); b=B()",
        "assert a == A() and b.z == 2 and a.y == [] ; b.up(); import attr; assert attr.fields(A).x.default == 1",
    ),
    "subclasses of containers": (
        "import collections\nu=collections.UserDict(a=1)\nclass L(list): pass\nl=L([1]); l.tag=l\nclass DD(dict):\n    def __missing__(self,k): return 7\nd=DD(a=1); d.x=2",
        "assert u['a']==1 and l.tag is l and type(l) is L and d['q']==7 and d.x==2",
    ),
    "views of fields, generators and their bits, vectorized functions, broadcast arrays": (
        "import numpy as np\nr=np.zeros(3,dtype=[('x','i4'),('y','f8')]); x=r['x']; ra=r.view(np.recarray); p=np.poly1d([1,2]); vf=np.vectorize(lambda q:q+1); bg=np.random.PCG64(3); g=np.random.Generator(bg); m=np.matrix([[1,2]]); mm=m[0]; bc=np.broadcast_to(np.arange(3),(4,3)); s=np.float32(1.5); dt=np.dtype('f4')",
        "x[0]=5; assert r[0]['x']==5 and p(1)==3 and vf([1])[0]==2 and g.bit_generator is bg and m.shape==(1,2) and bc.shape==(4,3) and bc.strides[0]==0 and s==1.5 and dt==np.float32; assert str(ra[0]) == '(5, 0.0)' and type(ra) is np.recarray, ra[0]",
    ),
    "iterators of itertools": (
        "import itertools\na,b=itertools.tee([1,2,3]); next(a)\nm=map(lambda q:q*2,[1,2]); next(m)\nc=itertools.chain([1],[2]); next(c); cy=itertools.cycle('ab'); next(cy); sl=itertools.islice([1,2,3],1,None)",
        "for n in ('m','c','cy','sl'): assert n in globals(), n\nassert list(m)==[4] and list(c)==[2] and next(cy)=='b' and list(sl)==[2,3]",
    ),
    "partial methods and total orderings": (
        "import functools\nclass C:\n    def f(self,a,b): return a+b\n    g=functools.partialmethod(f,1)\n@functools.total_ordering\nclass O:\n    def __init__(s,n): s.n=n\n    def __eq__(s,o): return s.n==o.n\n    def __lt__(s,o): return s.n<o.n\nc=C()",
        "assert c.g(2)==3 and O(1)<=O(2)",
    ),
    "closures of loops, nested classes, a function that holds itself": (
        "fs=[lambda i=i:i for i in range(3)]\ngs=[]\nfor i in range(3):\n    def h(): return i\n    gs.append(h)\ndef outer():\n    class In:\n        def me(self): return In\n        def s(self): return super().__repr__()\n    return In\nIn=outer(); x=In()\ndef f(): pass\nf.me=f",
        "assert [f() for f in fs]==[0,1,2] and gs[0]()==2 and x.me() is In and x.s() and f.me is f",
    ),
    "enums of other types, flags, members with a constructor": (
        "import enum\nclass S(enum.StrEnum):\n    A=enum.auto()\n    def up(self): return self.value.upper()\nclass IF(enum.IntFlag):\n    R=1; W=2\nrw=IF.R|IF.W\nclass Neg(enum.Enum):\n    @classmethod\n    def mk(cls): return cls(1)\n    X=1\n    @property\n    def p(self): return 5\nclass New(int, enum.Enum):\n    def __new__(cls, v, label):\n        o=int.__new__(cls,v); o._value_=v; o.label=label; return o\n    ONE=(1,'one')",
        "assert S.A.up()=='A' and rw==3 and rw is IF.R|IF.W and Neg.mk() is Neg.X and Neg.X.p==5 and New.ONE==1 and New.ONE.label=='one' and New(1) is New.ONE",
    ),
    "a handler of logging and its stream": (
        "import logging,io\nbuf=io.StringIO(); h=logging.StreamHandler(buf); lg=logging.getLogger('zz'); lg.addHandler(h); lg.propagate=False; lg.warning('a')",
        "assert buf.getvalue()=='a\\n'; h.emit(logging.makeLogRecord({'msg':'b'})); assert 'b' in buf.getvalue()",
    ),
    "aliases of what sys has": (
        "import sys\nmods=sys.modules; p=sys.path; st=sys.stdout; w=sys.stdout.write",
        "import sys\nassert mods is sys.modules and p is sys.path and st is sys.stdout",
    ),
    "types of typing that are found by name": (
        "type Pair[A] = tuple[A, list[A]]\nimport typing\nN=typing.NewType('N',int)\nclass G(typing.Generic[(T:=typing.TypeVar('T'))]): pass\ng=G[int]()\nU=int|None\nL=typing.Literal['a']\nA=typing.Annotated[int,'m']\nC=typing.Callable[[int],str]\nPS=typing.ParamSpec('PS')",
        "assert N(3)==3 and U==int|None and L.__args__==('a',) and g.__orig_class__.__args__==(int,) and str(Pair[int].__value__) == 'tuple[A, list[A]]' and PS.__name__ == 'PS'",
    ),
    "dynamic classes and bare objects": (
        "D=type('D',(),{'a':1}); d=D(); o=object(); oo=[o,o]; sentinel=object(); e={sentinel:1}",
        "assert d.a==1 and type(d) is D and oo[0] is o and e[sentinel]==1",
    ),
    "locks, events and queues of asyncio": (
        "import asyncio\nl=asyncio.Lock(); e=asyncio.Event(); q=asyncio.Queue(); q.put_nowait(1); s=asyncio.Semaphore(2)",
        "import asyncio\nasync def m():\n    async with l: pass\n    return await q.get()\nassert asyncio.run(m())==1",
    ),
    "hashes that depend on attributes": (
        "class H:\n    def __init__(s,x): s.x=x\n    def __hash__(s): return hash(s.x)\n    def __eq__(s,o): return s.x==o.x\nh=H(1); s={h}; d={h:s}",
        "assert h in s and d[h] is s",
    ),
    "indexers, groups and windows of frames": (
        "import pandas as pd, numpy as np\ndf=pd.DataFrame({'a':[1,2,3],'b':list('xyz')}); st=df.style; lc=df.loc; g=df.groupby('b')['a']; a=df['a'].array; v=df['a'].to_numpy(); i=df.index; c=df.columns; t=df.T",
        "assert lc[0,'a']==1 and g.sum()['x']==1 and i is df.index and c is df.columns and t.shape==(2,3)",
    ),
    "weak methods and proxies": (
        "import weakref\nclass C:\n    def f(self): return 1\n    def __init__(self): self.w=weakref.WeakMethod(self.f); self.p=weakref.proxy(self)\nc=C()",
        "assert c.w()()==1 and c.p.f()==1",
    ),
    "a reducer registered with copyreg": (
        "import copyreg\nclass X:\n    def __init__(s,v): s.v=v\ncopyreg.pickle(X, lambda x:(X,(x.v+100,)))\nx=X(1)",
        "assert x.v in (1,101)",
    ),
    "slots of a class and its bases": (
        "class A:\n    __slots__=('a',)\nclass B(A):\n    __slots__=('b',)\nclass C(B): pass\nb=B(); b.a=1; b.b=2; c=C(); c.a=3; c.z=4",
        "assert b.a==1 and b.b==2 and c.a==3 and c.z==4 and not hasattr(b,'__dict__')",
    ),
    "a class that holds a generator": (
        "class G:\n    gen=(i for i in range(3))\ng=G(); x=[1]; y=[x]",
        "assert y[0] is x and 'G' not in globals()",
    ),
    "a class that holds its instances": (
        "class Node:\n    root=None\n    def __init__(self): self.children=[]\nNode.root=Node(); Node.root.children.append(Node()); k=Node.root.children",
        "assert Node.root.children is k and type(k[0]) is Node",
    ),
    "a registry of decorated functions": (
        "REG={}\ndef reg(f):\n    REG[f.__name__]=f; return f\n@reg\ndef a(): return b()\n@reg\ndef b(): return 2",
        "assert REG['a'] is a and REG['a']()==2",
    ),
    "a registry of subclasses": (
        "class P:\n    subs={}\n    def __init_subclass__(cls): P.subs[cls.__name__]=cls\nclass Q(P): pass\nclass R(Q): pass",
        "assert P.subs=={'Q':Q,'R':R}",
    ),
    "descriptors are not told their names again": (
        "class F:\n    def __set_name__(s,o,n): s.n=n; s.calls=getattr(s,'calls',0)+1\nclass M:\n    f=F()\nm=M()",
        "assert M.__dict__['f'].calls==1 and M.f.n=='f'",
    ),
    "subclasses of numbers, texts and tuples": (
        "class I(int):\n    def d(s): return s*2\nclass S(str): pass\nclass T(tuple):\n    def __new__(c,a,b): return super().__new__(c,(a,b))\ni=I(4); s=S('x'); s.q=1; t=T(1,2); f=float.fromhex('0x1p3')",
        "assert i.d()==8 and type(s) is S and s.q==1 and t==(1,2) and type(t) is T",
    ),
    "bound methods inside of their instance": (
        "class C:\n    def __init__(s): s.h={'f':s.m}\n    def m(s): return s\nc=C(); p=c.h['f']",
        "assert p() is c and c.h['f']() is c",
    ),
    "figures with images, color bars and callbacks": (
        "import matplotlib; matplotlib.use('agg')\nimport matplotlib.pyplot as plt, numpy as np\nfig,ax=plt.subplots(); im=ax.imshow(np.eye(3)); cb=fig.colorbar(im); tx=ax.annotate('a',(0,0)); cm=plt.get_cmap('viridis'); ax2=ax.twinx(); hits=[]; cid=fig.canvas.mpl_connect('draw_event', lambda e: hits.append(1))",
        "import matplotlib; fig.canvas.draw(); assert cb.mappable is im and tx.axes is ax and cm(0.5)",
    ),
    "a dict that a class and a default share": (
        "cfg={'a':1}\nclass C:\n    cfg=cfg\n    def get(self, d=cfg): return d\nc=C()",
        "cfg['a']=2; assert C.cfg is cfg and c.get() is cfg",
    ),
    "dicts that share their values": (
        "d={i:[i] for i in range(20000)}; e=dict(list(d.items())[:100]); f=d[5]",
        "assert e[5] is d[5] is f and d[19999]==[19999]",
    ),
    "exit stacks": (
        "import contextlib\nes=contextlib.ExitStack(); n=contextlib.nullcontext(3); l=[]\nes.callback(l.append,1)",
        "es.close(); assert l==[1]",
    ),
    "structures of time and os": (
        "import time; t=time.localtime(0); import os; st=os.stat('.'); z=os.terminal_size((1,2))",
        "assert t.tm_year==1970 and z.columns==1 and st.st_mode",
    ),
    "contexts of decimal": (
        "import decimal; d=decimal.Decimal('1')/3; c=decimal.Context(prec=3)",
        "assert c.prec==3",
    ),
    "an alias of a property": (
        "class C:\n    @property\n    def p(s): return s._p\n    @p.setter\n    def p(s,v): s._p=v\nc=C(); c.p=3; pr=C.p",
        "c.p=4; assert c._p==4 and pr is C.__dict__['p']",
    ),
    "dataclasses that inherit": (
        "import dataclasses as dc\n@dc.dataclass\nclass A:\n    x:int=1\n@dc.dataclass(kw_only=True)\nclass B(A):\n    y:list=dc.field(default_factory=list,repr=False)\n    k: dc.KW_ONLY=None if False else 0\nb=B(y=[1])",
        "import dataclasses as dc\n@dc.dataclass\nclass D(B):\n    z:int=3\nassert D(y=[2]).z==3 and b==B(y=[1]) and dc.fields(B)[1].default_factory is list",
    ),
    "threads that have ended, pools that were shut down": (
        "import threading, concurrent.futures\nclass T(threading.Thread):\n    def run(self): self.result=41\n"
        "t=T(name='mine',daemon=True); t.start(); t.join(); u=threading.Thread(target=int); u.start(); u.join()\n"
        "p=concurrent.futures.ThreadPoolExecutor(2); f=p.submit(int); f.result(); p.shutdown(); us=[u,t]; ident=t.ident",
        "assert t.result==41 and t.name=='mine' and t.daemon and type(t) is T and us[1] is t and t.ident==ident\n"
        "t.join(); u.join(); assert not t.is_alive() and not u.is_alive()\n"
        "for again in (t.start, u.start, lambda: p.submit(int)):\n    try: again()\n    except RuntimeError: pass\n"
        "    else: raise AssertionError(again)\n"
        "import threading; assert threading.active_count()==1, threading.enumerate()",
    ),
    "threads whose class says more, and have ended": (
        "import threading\nclass R(threading.Thread):\n    __slots__=('extra',)\n    def run(self): self._return=3\n"
        "    def join(self, *args):\n        super().join(*args)\n        return self._return\n"
        "    def start(self):\n        starts.append(1)\n        super().start()\nstarts=[]\n"
        "r=R(); r.extra=5; r.start(); r.join()",
        "assert r.join()==3 and r.extra==5 and starts==[1] and not r.is_alive()",
    ),
    "data of threads whose class has a constructor": (
        "import threading\nclass L(threading.local):\n    def __init__(self, label, *, user='nobody'):\n"
        "        self.label=label; self.user=user; self.items=[]\nl=L('t', user='me'); l.user='alice'; l.items.append(1)\n"
        "import dataclasses\n@dataclasses.dataclass\nclass D(threading.local):\n    size: int\n"
        "    items: list = dataclasses.field(default_factory=list)\nd=D(4); d.items.append(1); bare=threading.local(); bare.x=1",
        "import threading\nseen=[]\ndef look(): seen.append((l.label, l.user, l.items, d.size, d.items, vars(bare)))\n"
        "t=threading.Thread(target=look); t.start(); t.join(); look()\n"
        "assert seen==[('t','me',[],4,[],{}), ('t','alice',[1],4,[1],{'x':1})], seen",
    ),
    "objects that hand on what they are asked for": (
        "class Proxy:\n    def __init__(self, to): self._to=to\n    def __getattr__(self, name): return getattr(self._to, name)\n"
        "class Slotted:\n    __slots__=('_to',)\n    def __getattr__(self, name): return getattr(self._to, name)\n"
        "class Many(list):\n    def __getattr__(self, name): return getattr(self._to, name)\n"
        "p=Proxy([1]); q=Proxy(p); s=Slotted(); s._to={'a': 1}; m=Many([1,2]); m._to='x'; vars(p)[7]=8\n"
        "from tqdm import tqdm; import io\nbar=tqdm(total=3, file=io.StringIO()); bar.update(2); bar.close()",
        "assert p.index(1)==0 and vars(p)[7]==8 and q._to is p and s.keys()=={'a'} and m==[1,2] and m.upper()=='X' and bar.n==2",
    ),
    "a console of rich, with what each of its threads has": (
        "import rich.console, io, threading\nc=rich.console.Console(file=io.StringIO(), width=40); c.print('[b]one[/b]')",
        "c.print('two')\nt=threading.Thread(target=c.print, args=('three',)); t.start(); t.join()\n"
        "assert c.file.getvalue().split()==['one','two','three'], c.file.getvalue()",
    ),
    "a database that was closed": (
        "import sqlite3; x=sqlite3.connect(':memory:'); x.close(); y=[x]",
        "try: y[0].execute('select 1')\nexcept Exception as exc: assert 'closed' in str(exc) and y[0] is x\nelse: raise AssertionError",
    ),
    "classes that functions made": (
        "def make():\n    class Made:\n        class In: pass\n    return Made\nM=make(); m=M(); i=M.In()",
        "assert type(m).__qualname__=='make.<locals>.Made' and type(i) is M.In, type(m).__qualname__\n"
        "assert M.In.__qualname__=='make.<locals>.Made.In'",
    ),
    "classes whose methods a library has written": (
        "gen=(i for i in [1])\nimport attrs\n@attrs.define\nclass At:\n    a: int=1\nat=At(1); ats=[at, At(2)]\n"
        "@attrs.frozen(order=True)\nclass Point:\n    x: float\n    at: At=attrs.field(factory=At)\np=Point(2.0)",
        "assert at==At(1) and ats[1].a==2 and ats[0] is at and repr(at)=='At(a=1)' and p<Point(3.0)\n"
        "assert At.__init__.__globals__ is At.__eq__.__globals__ and p.at==At()",
    ),
    "functions that run in a copy of the namespace": (
        "gen=(i for i in [1]); unit='m'; rate=2\ncopy=dict(globals())\n"
        "exec('def f(x): return [g(y)+unit for y in x]\\ndef g(y): return str(y*rate)\\n"
        "def h():\\n    global count\\n    count=count+1\\n    return count\\ncount=0',copy)\n"
        "f,g,h=copy['f'],copy['g'],copy['h']; del copy; h(); rate=5",
        "assert f([1])==['2m'] and h()==2 and f.__globals__ is g.__globals__ is h.__globals__ is not globals()\n"
        "assert 'gen' not in f.__globals__ and f.__globals__['g'] is g and f.__globals__['count']==2",
    ),
    "functions that run in a dict that is held": (
        "space={'a': 1, 'b': 2}\nexec('def f(): return a\\ndef all_(): return sorted(globals())',space); f=space['f']; held=[space]\n"
        "exec('def look(): return eval(\"z\")', other:={'z': 3}); look=other['look']; del space, other",
        "assert held[0] is f.__globals__ and held[0]['b']==2 and look()==3; held[0]['a']=7; assert f()==7",
    ),
    "a database without content": (
        "import sqlite3; x=sqlite3.connect(':memory:'); y=[x]; z=sqlite3.connect(':memory:'); z.row_factory=sqlite3.Row",
        "import sqlite3\nx.execute('create table t (a)'); x.execute('insert into t values (1)'); assert y[0] is x\n"
        "assert x.execute('select a from t').fetchall()==[(1,)] and z.execute('select 2 as b').fetchone()['b']==2",
    ),
    "members of an enum that are functions": (
        "import enum\nclass E(enum.Enum):\n    f=enum.member(lambda x: x+1)\n    A=2\n    B=2\n    @enum.member\n"
        "    def g(x): return x*2\n    def method(self): return self._value_(3) if callable(self._value_) else self._value_\n"
        "    k=enum.nonmember(7)\n    @enum.property\n    def twice(self): return 2\ne=E.f\n"
        "class F(enum.Flag):\n    R=1\n    W=2\n    RW=3\nr=F.R|F.W",
        "import enum\nassert [each.name for each in E]==['f','A','g'] and E.f.value(1)==2 and E.g.method()==6 and E.A.method()==2\n"
        "assert e is E.f and E.B is E.A and E.k==7 and E.A.twice==2 and r is F.RW and isinstance(E.f, E)",
    ),
    "annotations that are texts": (
        "from __future__ import annotations\ndef f(x: Foo) -> Bar: return x\nclass C:\n    a: Foo",
        "assert f.__annotations__=={'x':'Foo','return':'Bar'} and C.__annotations__=={'a':'Foo'}",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_more_values_survive(journey: Journey, trap: str) -> None:
    setup, check = TRAPS[trap]
    journey.take(setup)
    journey.bring_back(check)
