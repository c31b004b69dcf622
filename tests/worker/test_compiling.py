"""A cell's mode, file name and code: beside Python's compiler, ipykernel's hash and IPython's interactivity."""

from __future__ import annotations

import ast
import inspect
import random
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest
from ipykernel import compiler as ipykernel_compiler

from capsule_kernel.worker.compiling import CELL_NAME_SEED, CellCompiler, ExecutionMode, detect_mode, murmur2

from .shells import ipython_shell, surroundings

AWAIT = ExecutionMode.TOP_LEVEL_AWAIT
DEF = ExecutionMode.ASYNC_DEF
BLOCKING = ExecutionMode.BLOCKING_SYNC
SIMPLE = ExecutionMode.SIMPLE_SYNC
UNKNOWN = ExecutionMode.UNKNOWN

MODES = {
    "await f()": AWAIT,
    "x = await f()": AWAIT,
    "1 + (2 * await f())": AWAIT,
    "print(await f())": AWAIT,
    "if x:\n    for y in z:\n        await f()": AWAIT,
    "try:\n    pass\nfinally:\n    await f()": AWAIT,
    "with await f() as x:\n    pass": AWAIT,
    "async for x in y:\n    pass": AWAIT,
    "async with x:\n    pass": AWAIT,
    "async with a as b, c:\n    pass": AWAIT,
    "[x async for x in y]": AWAIT,
    "{x async for x in y}": AWAIT,
    "{x: 1 async for x in y}": AWAIT,
    "[await x for x in y]": AWAIT,
    "[x for x in y if await x]": AWAIT,
    "[x for x in await y]": AWAIT,
    "[[await x for x in y] for y in z]": AWAIT,
    "(x for x in await y)": AWAIT,
    "f'{await x}'": AWAIT,
    "f'{1:{await x}}'": AWAIT,
    "@(await f())\ndef g(): pass": AWAIT,
    "@(await f())\nasync def g(): pass": AWAIT,
    "@(await f())\nclass A: pass": AWAIT,
    "class A(await f()): pass": AWAIT,
    "class A(metaclass=await f()): pass": AWAIT,
    "def g(x=await f()): pass": AWAIT,
    "def g(*, x=await f()): pass": AWAIT,
    "async def g(x=await f()): pass": AWAIT,
    "lambda x=await f(): 1": AWAIT,
    "lambda *, x=await f(): 1": AWAIT,
    "async def g(): pass\nawait g()": AWAIT,
    "del (await f())[0]": AWAIT,
    "match await f():\n    case 1: pass": AWAIT,
    "match x:\n    case 1 if await f(): pass": AWAIT,
    "x: int = await f()": AWAIT,
    "while await f(): pass": AWAIT,
    "assert await f(), 'x'": AWAIT,
    "raise await f()": AWAIT,
    "(y := await f())": AWAIT,
    "async def g(): await f()": DEF,
    "async def g():\n    async for x in y: pass": DEF,
    "def h():\n    async def g(): await f()": SIMPLE,
    "class A:\n    async def g(self): await f()": DEF,
    "async def g(): pass\n\nimport asyncio\nasyncio.run(g())": DEF,
    "async def g():\n    return [x async for x in y]": DEF,
    "(x async for x in y)": SIMPLE,
    "(await x for x in y)": SIMPLE,
    "g = (x for x in y if await x)": SIMPLE,
    "x = 'await f()'": SIMPLE,
    "# await f()": SIMPLE,
    "async_ = 1": SIMPLE,
    "awaited(1)": SIMPLE,
    "import asyncio\nasyncio.run(main())": SIMPLE,
    "": SIMPLE,
    "x = 1": SIMPLE,
    "print('hello')": SIMPLE,
    "def f(): return 1": SIMPLE,
    "import time\ntime.sleep(1)": BLOCKING,
    "name = input()": BLOCKING,
    "requests.get(url)": BLOCKING,
    "requests.post(url)": BLOCKING,
    "subprocess.run(['ls'])": BLOCKING,
    "subprocess.check_output(['ls'])": BLOCKING,
    "os.system('ls')": BLOCKING,
    "await": UNKNOWN,
    "await (": UNKNOWN,
    "async x": UNKNOWN,
    "async def": UNKNOWN,
    "  await x": UNKNOWN,
    "await x\x00": UNKNOWN,
    "await " + "(" * 5_000: UNKNOWN,
    "await \ud800": UNKNOWN,
}

GENERATORS = {"(x async for x in y)", "(await x for x in y)", "g = (x for x in y if await x)"}
"""Cells that make an asynchronous generator, and do not consume it."""


class Both:
    """Can be iterated over either way."""

    def __iter__(self) -> Iterator[object]:
        return iter(())

    def __aiter__(self) -> Both:
        return self

    async def __anext__(self) -> object:
        raise StopAsyncIteration


@pytest.mark.parametrize("source", MODES, ids=lambda source: repr(source[:40]))
def test_a_cell_has_the_mode_that_its_code_asks_for(source: str) -> None:
    assert detect_mode(source) is MODES[source]


@pytest.mark.parametrize("source", MODES, ids=lambda source: repr(source[:40]))
def test_a_cell_awaits_exactly_where_python_compiles_it_to_a_coroutine(source: str) -> None:
    try:
        code = compile(source, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, MemoryError):
        assert MODES[source] is UNKNOWN
        return
    is_coroutine = bool(code.co_flags & inspect.CO_COROUTINE)
    if source in GENERATORS:
        # Some versions of Python call it a coroutine; it has nothing to wait for, so it needs no loop.
        if is_coroutine:
            with pytest.raises(StopIteration):
                eval(code, {"y": Both()}).send(None)
        return
    assert is_coroutine == (detect_mode(source) is AWAIT)


# --- names ----------------------------------------------------------------------------------------------------------

hash_by_ipykernel: Any = ipykernel_compiler.murmur2_x86
seed_of_ipykernel: Any = ipykernel_compiler.get_tmp_hash_seed
TEXTS = [
    *("abcdefghi"[:length] for length in range(10)),
    "x = 1",
    "print('hello')\n",
    "é",
    "naïve café",
    "Ünïcödé = 'ß'",
    "日本語 = 1",
    "привет",
    "\U0001f600\U0001f601",
    "mixed é 日 \U0001f600 x",
    "\x00\x7f\x80\xff\u0100",
    "a\r\nb\tc",
    "x" * 10_000,
    "é" * 4_097,
]


@pytest.mark.parametrize("seed", [0, 1, CELL_NAME_SEED, 2**32 - 1])
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_the_hash_is_ipykernels(text: str, seed: int) -> None:
    assert murmur2(text, seed) == hash_by_ipykernel(text, seed)


def test_the_hash_is_ipykernels_for_many_random_texts() -> None:
    source = random.Random(3)
    alphabets = ["abc \n", "".join(map(chr, range(256))), "aé日\U0001f600"]
    for number in range(600):
        text = "".join(source.choices(alphabets[number % 3], k=number % 40))
        assert murmur2(text, CELL_NAME_SEED) == hash_by_ipykernel(text, CELL_NAME_SEED)
    assert seed_of_ipykernel() == CELL_NAME_SEED


def test_lone_surrogates_hash_as_a_browser_encodes_them() -> None:
    """`TextEncoder` writes U+FFFD for each."""
    for text, browsers in [("\ud800", "\ufffd"), ("a\udc00b", "a\ufffdb"), ("\ud83d\ude00", "\U0001f600")]:
        assert murmur2(text, 7) == murmur2(browsers, 7)


@pytest.fixture
def compiler() -> CellCompiler:
    made = CellCompiler()
    made.cell_prefix = "/tmp/ipykernel_1/"
    return made


def test_the_same_text_has_the_same_file_name_in_every_worker(compiler: CellCompiler) -> None:
    name = compiler.get_code_name("x = 'é'", "x = 'é'\n", 1)
    assert name == f"/tmp/ipykernel_1/{hash_by_ipykernel("x = 'é'", CELL_NAME_SEED)}.py"
    other = CellCompiler()
    other.cell_prefix = compiler.cell_prefix
    assert other.get_code_name("y", "y", 1) != name
    assert other.get_code_name("x = 'é'", "transformed otherwise", 9) == name


def test_a_name_that_is_given_is_used(compiler: CellCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.get_code_name("x", "x", 1)
    monkeypatch.setenv("IPYKERNEL_CELL_NAME", "my cell")
    assert compiler.get_code_name("x", "x", 1) == "my cell"


# --- the cache ------------------------------------------------------------------------------------------------------

Codes = list[tuple[CodeType, bool]]


def compiled(
    compiler: CellCompiler,
    source: str,
    *,
    name: str = "cell.py",
    interactivity: str = "last_expr",
    may_await: bool = True,
    key: str | None = None,
) -> Codes:
    nodes = ast.parse(source).body
    key = source if key is None else key
    return compiler.compile_cell(nodes, name, interactivity, source=key, may_await=may_await)


def is_cached(compiler: CellCompiler, source: str, **options: Any) -> bool:
    """Whether compiling again gives the very same code; makes it so."""
    return compiled(compiler, source, **options) is compiled(compiler, source, **options)


def test_the_same_cell_is_compiled_once(compiler: CellCompiler) -> None:
    assert is_cached(compiler, "x = 1\nx")


@pytest.mark.parametrize(
    "changes", [{"name": "other.py"}, {"interactivity": "all"}, {"may_await": False}, {"key": "other"}], ids=str
)
def test_what_changes_the_code_changes_the_key(changes: dict[str, Any], compiler: CellCompiler) -> None:
    assert compiled(compiler, "x") is not compiled(compiler, "x", **changes)


def test_a_future_import_of_an_earlier_cell_changes_the_key(compiler: CellCompiler) -> None:
    source = "def f(x: undefined): pass"
    before = compiled(compiler, source)
    compiled(compiler, "from __future__ import annotations")
    assert compiler.flags & __import__("__future__").annotations.compiler_flag
    assert compiled(compiler, source) is not before
    namespace: dict[str, Any] = {}
    for code, _ in compiled(compiler, source):
        exec(code, namespace)
    assert namespace["f"].__annotations__ == {"x": "undefined"}


def test_allowing_await_does_not_stay_on(compiler: CellCompiler) -> None:
    compiled(compiler, "await x", may_await=True)
    with pytest.raises(SyntaxError):
        compiled(compiler, "await x", may_await=False)


def test_the_least_recently_used_cell_is_evicted_first(compiler: CellCompiler) -> None:
    compiler.cache_size = 2
    a, b = compiled(compiler, "a"), compiled(compiler, "b")
    assert compiled(compiler, "a") is a
    compiled(compiler, "c")
    assert compiled(compiler, "a") is a
    assert compiled(compiler, "b") is not b


@pytest.mark.parametrize(("size", "source"), [(0, "x"), (-1, "x"), (512, "")])
def test_no_cache_and_rewritten_trees_compile_each_time(size: int, source: str, compiler: CellCompiler) -> None:
    compiler.cache_size = size
    assert not is_cached(compiler, "x", key=source)


def test_what_does_not_compile_raises_each_time_and_is_not_kept(compiler: CellCompiler) -> None:
    for _ in range(2):
        with pytest.raises(SyntaxError, match="'return' outside function"):
            compiled(compiler, "return 1")


@pytest.mark.parametrize(
    ("source", "awaits"),
    [
        ("x\nawait y", [False, True]),
        ("async def f(): await x", [False]),
        ("async for x in y: pass\nz", [True, False]),
    ],
)
def test_each_statement_knows_whether_it_awaits(source: str, awaits: list[bool], compiler: CellCompiler) -> None:
    assert [awaiting for _, awaiting in compiled(compiler, source)] == awaits


def test_a_tree_that_was_parsed_to_look_is_used_once(compiler: CellCompiler) -> None:
    assert compiler.parses("x = 1\n", "x = 1")
    tree = compiler.ast_parse("x = 1\n", "ignored")
    assert ast.dump(tree) == ast.dump(ast.parse("x = 1\n"))
    again = compiler.ast_parse("x = 1\n", "again")
    assert again is not tree


def test_a_tree_of_other_text_is_never_used(compiler: CellCompiler) -> None:
    assert compiler.parses("x = 1\n", "x = 1")
    assert ast.unparse(compiler.ast_parse("y = 2\n")) == "y = 2"
    assert compiler.parses("x = 1\n", "x = 1")
    assert isinstance(compiler.ast_parse("x = 1\n", symbol="single"), ast.Interactive)


@pytest.mark.parametrize("source", ["x =", "%time", "\x00", "x = '\ud800'", "(" * 5_000, "x y"])
def test_what_does_not_parse_says_so_and_leaves_nothing_behind(source: str, compiler: CellCompiler) -> None:
    assert compiler.parses("fine\n", "fine")
    assert not compiler.parses(source, source)
    with pytest.raises((SyntaxError, ValueError, MemoryError)):
        compiler.ast_parse(source)


# --- interactivity --------------------------------------------------------------------------------------------------

CELLS = [
    "1",
    "1\n2",
    "x = 1",
    "x = 1\nx",
    "x = y = 2",
    "x = 1\nx += 1",
    "x: int = 3",
    "x: int",
    "a, b = 1, 2",
    "[a, b] = 1, 2",
    "a = [0]\na[0] = 5",
    "class A: pass\nA.b = 1",
    "(x := 5)",
    "def f(): return 1\nf()",
    "def f(): return 1",
    "for i in range(3): i",
    "if True:\n    5",
    "if True:\n    5\n6",
    "while False: pass\nelse: 7",
    "with open('/dev/null') as file: 8",
    "try:\n    9\nfinally:\n    10",
    "import os",
    "None",
    "x = None\nx",
    "print",
    "lambda: 1",
    "pass",
    "'a'; 'b'",
    "del [0][0]",
    "assert True",
]


@pytest.fixture(scope="module")
def ipython(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with surroundings():
        yield ipython_shell(tmp_path_factory.mktemp("profile"))


def by_ipython(shell: Any, source: str, interactivity: str) -> list[str]:
    """What IPython displays of a cell, and whether that failed."""
    shown: list[str] = []
    before, sys.displayhook = sys.displayhook, lambda value: shown.append(type(value).__name__ + str(value)[:5])
    shell.user_ns.pop("x", None)
    try:
        tree = shell.compile.ast_parse(source)
        with pytest.raises(StopIteration) as ended:
            shell.run_ast_nodes(tree.body, "<cell>", interactivity, compiler=shell.compile).send(None)
        if ended.value.value:
            shown.append("failed")
    finally:
        sys.displayhook = before
    return shown


def by_us(compiler: CellCompiler, source: str, interactivity: str) -> list[str]:
    shown: list[str] = []
    before, sys.displayhook = sys.displayhook, lambda value: shown.append(type(value).__name__ + str(value)[:5])
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        for code, _ in compiled(compiler, source, interactivity=interactivity):
            exec(code, namespace)
    except NameError:
        shown.append("failed")
    finally:
        sys.displayhook = before
    return shown


@pytest.mark.parametrize("interactivity", ["all", "last", "last_expr", "none", "last_expr_or_assign"])
@pytest.mark.parametrize("source", CELLS)
def test_what_is_displayed_is_what_ipython_displays(
    source: str, interactivity: str, compiler: CellCompiler, ipython: Any
) -> None:
    assert by_us(compiler, source, interactivity) == by_ipython(ipython, source, interactivity)


def test_an_unknown_interactivity_is_refused_with_those_that_exist(compiler: CellCompiler) -> None:
    with pytest.raises(ValueError, match=r"'some'.*all, last, last_expr, none or last_expr_or_assign"):
        compiled(compiler, "x", interactivity="some")
