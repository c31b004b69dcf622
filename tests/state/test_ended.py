"""What has ended comes back ended: tasks, processes, pools, generators, connections; each in a fresh process."""

from __future__ import annotations

import pytest

from tests.state.conftest import Journey

_LOOP = "import asyncio\nloop = asyncio.new_event_loop()\n"
ENDED = {
    "tasks with a result, an error, and cancelled": (
        f"{_LOOP}async def f(x):\n    if x < 0: raise ValueError(x)\n    return [x]\n"
        "async def all_():\n"
        "    ts = [asyncio.create_task(f(1), name='one'), asyncio.create_task(f(-1)), asyncio.create_task(f(2))]\n"
        "    ts[2].cancel('enough'); await asyncio.wait(ts); return ts\n"
        "a, b, c = loop.run_until_complete(all_()); shared = a.result(); b.exception(); loop.close()",
        "import asyncio\n"
        "assert a.done() and a.result() is shared == [1] and a.get_name() == 'one'\n"
        "assert type(b.exception()) is ValueError and b.exception().args == (-1,) and b.exception().__context__ is None\n"
        "assert c.cancelled() and a.get_loop() is loop and loop.is_closed()\n"
        "assert repr(a).startswith(\"<Task finished name='one' coro=<f() done, defined at <cell>:3> result=[1]>\")\n"
        "async def later():\n"
        "    assert await a == [1]\n"
        "    try: await b\n"
        "    except ValueError: pass\n"
        "    else: raise AssertionError\n"
        "    try: await c\n"
        "    except asyncio.CancelledError as exc: assert exc.args == ('enough',)\n"
        "    else: raise AssertionError\n"
        "asyncio.run(later())",
    ),
    "futures of asyncio": (
        f"{_LOOP}a, b, c = (loop.create_future() for _ in range(3))\n"
        "a.set_result({'x': 1}); b.set_exception(KeyError('k')); b.exception(); c.cancel()\nloop.close()",
        "assert a.result() == {'x': 1} and type(b.exception()) is KeyError and c.cancelled()",
    ),
    "a group of tasks that was left": (
        f"{_LOOP}async def f(): return 7\n"
        "async def all_():\n    async with asyncio.TaskGroup() as tg: t = tg.create_task(f())\n    return tg, t\n"
        "tg, t = loop.run_until_complete(all_()); loop.close()",
        "assert t.result() == 7 and type(tg).__name__ == 'TaskGroup'",
    ),
    "generators that have ended": (
        "def g(): yield 1\ndef h():\n    yield 1\n    raise ValueError\n"
        "a = g(); list(a); b = h(); next(b)\ntry: next(b)\nexcept ValueError: pass\nc = g(); c.close()",
        "assert [list(x) for x in (a, b, c)] == [[], [], []] and a.__qualname__ == 'g' and repr(b).startswith('<generator object h')",
    ),
    "coroutines that have ended": (
        f"{_LOOP}async def f(): return 1\nasync def ag(): yield 1\na = f(); loop.run_until_complete(a); b = ag()\n"
        "async def use(): return [x async for x in b]\nloop.run_until_complete(use()); loop.close()",
        "import asyncio\ntry: asyncio.run(a)\nexcept RuntimeError as exc: assert 'already awaited' in str(exc)\nelse: raise AssertionError\n"
        "async def use(): return [x async for x in b]\nassert asyncio.run(use()) == [] and a.__name__ == 'f'",
    ),
    "children that were waited for": (
        "import subprocess\na = subprocess.Popen(['sh', '-c', 'exit 3']); a.wait()\n"
        "b = subprocess.Popen(['echo', 'x'], stdout=subprocess.PIPE, text=True); out = b.communicate()",
        "assert a.returncode == a.poll() == a.wait() == 3 and a.args == ['sh', '-c', 'exit 3']\n"
        "assert b.returncode == 0 and b.stdout.closed and out == ('x\\n', None); a.kill(); a.terminate()",
    ),
    "processes of multiprocessing": (
        "import multiprocessing as mp\nctx = mp.get_context('fork')\ndef work(n): raise SystemExit(n)\n"
        "a = ctx.Process(target=work, args=(4,), name='worker'); a.start(); a.join()\nb = ctx.Process(target=work, args=(5,))",
        "assert a.exitcode == 4 and not a.is_alive() and a.name == 'worker' and a.pid > 0; a.join(); a.terminate()\n"
        "b.start(); b.join(); assert b.exitcode == 5",
    ),
    "a pool of processes that was shut down": (
        "from concurrent.futures import ProcessPoolExecutor\nimport multiprocessing as mp\n"
        "with ProcessPoolExecutor(1, mp_context=mp.get_context('fork')) as a: f = a.submit(int, '3'); f.result()",
        "assert f.result() == 3\ntry: a.submit(int)\nexcept RuntimeError as exc: assert 'after shutdown' in str(exc)\n"
        "else: raise AssertionError\na.shutdown()",
    ),
    "a pool of multiprocessing that was terminated": (
        "import multiprocessing as mp\nwith mp.get_context('fork').Pool(1) as a: r = a.map(abs, [-1])\na.join()",
        "assert r == [1] and 'TERMINATE' in repr(a)\ntry: a.map(abs, [1])\nexcept ValueError as exc: assert 'not running' in str(exc)\n"
        "else: raise AssertionError\na.close(); a.terminate(); a.join()",
    ),
    "a pool of multiprocessing that was closed and joined": (
        "import multiprocessing as mp\na = mp.get_context('fork').Pool(1); r = a.map(abs, [-1]); a.close(); a.join()",
        "assert r == [1] and 'CLOSE' in repr(a); a.terminate(); a.join()",
    ),
    "tasks that were asked to end": (
        f"{_LOOP}async def f():\n    await asyncio.sleep(60)\n"
        "async def all_():\n    t = asyncio.create_task(f()); await asyncio.sleep(0); t.cancel('enough')\n"
        "    await asyncio.wait([t]); return t\n"
        "a = loop.run_until_complete(all_()); loop.close()",
        "assert a.cancelled() and a.cancelling() == 1 and a._make_cancelled_error().args == ('enough',)",
    ),
    "generators that can be awaited": (
        "import types\n@types.coroutine\ndef g(): yield\na = g(); a.close()",
        "import inspect\nassert inspect.isawaitable(a)",
    ),
    "timers": (
        "import threading\na = threading.Timer(0.01, int); a.start(); a.join(); b = threading.Timer(0.01, int)",
        "assert not a.is_alive() and a.finished.is_set() and a.interval == 0.01; a.join()\n"
        "b.start(); b.join(); assert b.finished.is_set()",
    ),
    "sockets and servers that are closed": (
        "import socket, http.server, threading\na = socket.socket(); a.settimeout(3); a.close()\n"
        "s = http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)\n"
        "t = threading.Thread(target=s.serve_forever); t.start(); s.shutdown(); s.server_close(); t.join()\nport = s.server_port",
        "assert a.fileno() == -1 and a.gettimeout() == 3 and a.type.name == 'SOCK_STREAM' and s.server_port == port and s.socket.fileno() == -1",
    ),
}


@pytest.mark.parametrize("name", ENDED)
def test_what_has_ended_comes_back_ended(journey: Journey, name: str) -> None:
    setup, check = ENDED[name]
    journey.take(setup)
    journey.bring_back(check)


@pytest.mark.parametrize("name", ENDED)
def test_it_is_proven(journey: Journey, name: str) -> None:
    setup, _ = ENDED[name]
    took = journey.take(setup, verify=True)
    unproven = {name: entry for name, entry in took["names"].items() if entry["status"] != "saved and verified"}
    assert unproven == {}
