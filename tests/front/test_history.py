"""The history file is IPython's: what either writes the other reads, and a file that is of no use costs no cell."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from IPython.core.history import HistoryAccessor, HistoryManager
from IPython.core.interactiveshell import InteractiveShellABC

from capsule_kernel.front import history as module
from capsule_kernel.front.history import History, default_file

Opener = Callable[..., History]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "profile" / "history.sqlite")


@pytest.fixture
async def opened(path: str) -> AsyncIterator[Opener]:
    """Opens histories, and closes what the test has left open."""
    made: list[History] = []

    def open_(file: str = path) -> History:
        made.append(History(file, loop=asyncio.get_running_loop()))
        return made[-1]

    yield open_
    for each in made:
        await each.close()


def rows(path: str, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT * FROM {table}").fetchall()


def files_in(path: str) -> list[str]:
    """What is beside `path`, itself included."""
    folder = Path(path).parent
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


async def tail(history: History, **arguments: Any) -> list[Any]:
    return await history.query({"hist_access_type": "tail", "n": 100, "raw": True, "output": False} | arguments)


class Shell:
    """As much of a shell as IPython's history asks for."""

    def push(self, names: dict[str, Any], *, interactive: bool = True) -> None:
        """Take `_i`, `_ii`, …; nobody looks at them here."""


InteractiveShellABC.register(Shell)


def written_by_ipython(path: str, *inputs: tuple[str, str], output: str = "") -> None:
    """Have IPython's own history manager write a session."""
    Path(path).parent.mkdir(exist_ok=True)
    manager: Any = HistoryManager(shell=Shell(), hist_file=path, db_log_output=True)  # type: ignore[arg-type]
    with manager:
        for line, (source, raw) in enumerate(inputs, start=1):
            manager.store_inputs(line, source, raw)
        if output:
            manager.output_hist_reprs[1] = output
            manager.store_output(1)
        manager.writeout_cache()
        manager.end_session()


# --- what is written ------------------------------------------------------------------------------------------------


async def test_inputs_are_written_as_ipython_writes_them(opened: Opener, path: str) -> None:
    history = opened()
    history.store(1, "get_ipython().run_line_magic('ls', '')\n", "%ls\n")
    history.store(2, "x = 'é'\n", "x = 'é'")
    await history.close()
    assert rows(path, "history") == [
        (1, 1, "get_ipython().run_line_magic('ls', '')", "%ls"),
        (1, 2, "x = 'é'", "x = 'é'"),
    ]
    ((number, start, end, count, remark),) = rows(path, "sessions")
    assert (number, count, remark) == (1, 2, "")
    assert start <= end


async def test_tables_have_the_columns_of_ipythons(opened: Opener, path: str, tmp_path: Path) -> None:
    history = opened()
    history.store(1, "1", "1")
    await history.close()
    theirs = str(tmp_path / "theirs.sqlite")
    written_by_ipython(theirs, ("1", "1"))

    def columns(file: str) -> dict[str, list[tuple[Any, ...]]]:
        with closing(sqlite3.connect(file)) as database:
            return {
                table: database.execute(f"PRAGMA table_info({table})").fetchall()
                for table in ("sessions", "history", "output_history")
            }

    assert columns(path) == columns(theirs)


@pytest.mark.filterwarnings("ignore:The default timestamp converter:DeprecationWarning")
async def test_ipython_reads_what_the_kernel_wrote(opened: Opener, path: str) -> None:
    for name in ("a", "b"):
        history = opened()
        history.store(1, f"{name} = 1", f"{name} = 1")
        history.store(2, name, name)
        history.note_output(2, "1", is_logged=True)
        await history.close()
    with HistoryAccessor(hist_file=path) as accessor:
        assert list(accessor.get_tail(3, include_latest=True)) == [(1, 2, "a"), (2, 1, "b = 1"), (2, 2, "b")]
        assert list(accessor.get_range(2, output=True)) == [(2, 1, ("b = 1", None)), (2, 2, ("b", "1"))]
        assert list(accessor.search("a*")) == [(1, 1, "a = 1"), (1, 2, "a")]
        number, start, end, count, remark = accessor.get_session_info(2)
    assert (number, count, remark) == (2, 2, "")
    assert end is not None
    assert start <= end


async def test_the_kernel_reads_what_ipython_wrote(opened: Opener, path: str) -> None:
    written_by_ipython(path, ("get_ipython().system('ls')", "!ls"), ("y = 2", "y = 2"), output="[1, 2]")
    history = opened()
    history.store(1, "z", "z")
    assert await tail(history) == [(1, 1, "!ls"), (1, 2, "y = 2"), (2, 1, "z")]
    assert await tail(history, raw=False) == [(1, 1, "get_ipython().system('ls')"), (1, 2, "y = 2"), (2, 1, "z")]
    assert await tail(history, output=True) == [
        (1, 1, ("!ls", "[1, 2]")),
        (1, 2, ("y = 2", None)),
        (2, 1, ("z", None)),
    ]


async def test_ipython_and_the_kernel_may_have_the_file_open_at_once(opened: Opener, path: str) -> None:
    history = opened()
    history.store(1, "ours", "ours")
    assert await tail(history) == [(1, 1, "ours")]
    await asyncio.to_thread(written_by_ipython, path, ("theirs", "theirs"))
    history.store(2, "ours again", "ours again")
    assert await tail(history) == [(1, 1, "ours"), (1, 2, "ours again"), (2, 1, "theirs")]


@pytest.mark.parametrize("command", ["exit", "quit", "exit()", "quit()", "%exit", "%quit", " exit \n"])
async def test_what_ends_the_kernel_is_not_kept(command: str, opened: Opener) -> None:
    history = opened()
    history.store(1, "x", "x")
    history.store(2, command, command)
    assert await tail(history) == [(1, 1, "x")]


async def test_lines_that_count_anew_keep_what_was_there(opened: Opener) -> None:
    """After `%reset`, numbers begin at 1 again."""
    history = opened()
    for line, text in [(1, "a"), (2, "b"), (1, "c"), (2, "d"), (9, "e")]:
        history.store(line, text, text)
    assert await tail(history) == [(1, 1, "a"), (1, 2, "b"), (1, 3, "c"), (1, 4, "d"), (1, 9, "e")]


async def test_results_of_this_session_are_known_without_being_in_the_file(opened: Opener, path: str) -> None:
    history = opened()
    history.store(1, "6 * 7", "6 * 7")
    history.note_output(1, "42", is_logged=False)
    assert await tail(history, output=True) == [(1, 1, ("6 * 7", "42"))]
    assert rows(path, "output_history") == []


async def test_a_kernel_that_ran_nothing_leaves_the_file_alone(opened: Opener, path: str) -> None:
    await opened().close()
    assert files_in(path) == []


# --- what is asked --------------------------------------------------------------------------------------------------

SESSIONS = [
    ["import numpy", "x = 1", "x", "print(x)"],
    [f"filler {number}" for number in range(1, 8)] + ["x = 1"],
    ["x", "%time x", "!ls", "X = 1", "x = 1", "é = 'ü'"],
]


FORMS: list[dict[str, Any]] = [{"raw": raw, "output": output} for raw in (True, False) for output in (False, True)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three sessions by IPython, whose answers are the oracle."""
    path = str(tmp_path_factory.mktemp("filled") / "history.sqlite")
    for session in SESSIONS:
        written_by_ipython(path, *((f"parsed({text!r})", text) for text in session), output="out")
    return path


@pytest.fixture(scope="module")
def oracle(filled: str) -> Iterator[HistoryAccessor]:
    with HistoryAccessor(hist_file=filled) as accessor:
        yield accessor


@pytest.mark.parametrize("n", [None, 0, 1, 5, 100])
async def test_tail_is_what_ipython_answers(n: int | None, oracle: HistoryAccessor, opened: Opener) -> None:
    history = opened(oracle.hist_file)
    for form in FORMS:
        expected = list(oracle.get_tail(n, include_latest=True, **form))
        assert await history.query({"hist_access_type": "tail", "n": n} | form) == expected


@pytest.mark.parametrize(("start", "stop"), [(0, None), (1, None), (2, 4), (3, 100), (4, 2), (1, 0)])
async def test_range_is_what_ipython_answers(
    start: int, stop: int | None, oracle: HistoryAccessor, opened: Opener
) -> None:
    history = opened(oracle.hist_file)
    for session in (1, 2, 3, 77):
        arguments: dict[str, Any] = {"session": session, "start": start, "stop": stop}
        for form in FORMS:
            expected = list(oracle.get_range(**arguments, **form))
            assert await history.query({"hist_access_type": "range"} | arguments | form) == expected


async def test_ranges_count_sessions_back_from_this_one(path: str, opened: Opener) -> None:
    for session in SESSIONS:
        written_by_ipython(path, *((text, text) for text in session))
    history = opened()
    history.store(1, "mine", "mine")
    arguments = {"hist_access_type": "range", "start": 1, "stop": 2, "raw": True, "output": False}
    first = {number: await history.query(arguments | {"session": -number}) for number in range(5)}
    assert first == {
        0: [(4, 1, "mine")],
        1: [(3, 1, SESSIONS[2][0])],
        2: [(2, 1, SESSIONS[1][0])],
        3: [(1, 1, SESSIONS[0][0])],
        4: [],
    }


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("pattern", ["*", "x*", "x", "*[xX] = 1", "?", "no such", "*é*", "%*", "parsed*"])
async def test_search_is_what_ipython_answers(
    pattern: str, unique: bool, oracle: HistoryAccessor, opened: Opener
) -> None:
    history = opened(oracle.hist_file)
    for n in (None, 0, 1, 3, 100):
        arguments: dict[str, Any] = {"pattern": pattern, "n": n, "unique": unique}
        for form in FORMS:
            expected = list(oracle.search(**arguments, **form))
            assert await history.query({"hist_access_type": "search"} | arguments | form) == expected


async def test_an_unknown_kind_of_access_finds_nothing(filled: str, opened: Opener) -> None:
    assert await opened(filled).query({"hist_access_type": "all"}) == []


# --- files that are of no use ---------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are not waited for."""
    monkeypatch.setattr(module, "_BUSY_TIMEOUT_S", 0.0)


@pytest.mark.parametrize("kind", ["below a file", "a folder", "not a database"])
async def test_without_a_usable_file_the_session_has_its_own_history(
    kind: str, opened: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no database, but long enough to be looked at: " + "x" * 1000)
    file = str({"below a file": tmp_path / "file" / "h.sqlite", "a folder": tmp_path}.get(kind, tmp_path / "file"))
    history = opened(file)
    history.store(1, "x", "x")
    assert await tail(history) == [(1, 1, "x")]
    assert f"history file {file} cannot be used" in caplog.text
    assert "in memory only" in caplog.text
    assert (tmp_path / "file").read_text().startswith("no database")


async def test_a_file_that_is_locked_at_the_start_is_not_waited_for(
    opened: Opener, path: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    written_by_ipython(path, ("theirs", "theirs"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        history = opened()
        history.store(1, "x", "x")
        assert await tail(history) == [(1, 1, "x")]
        assert "locked" in caplog.text
        await history.close()
    assert rows(path, "history") == [(1, 1, "theirs", "theirs")]


async def test_a_file_that_is_locked_later_costs_what_was_to_be_written_then(
    opened: Opener, path: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    history = opened()
    history.store(1, "before", "before")
    assert await tail(history) == [(1, 1, "before")]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        history.store(2, "meanwhile", "meanwhile")
        history.note_output(2, "1", is_logged=True)
        assert await tail(history) == []
        assert "1 inputs were not written to the history file" in caplog.text
        assert "a result was not written" in caplog.text
    history.store(3, "after", "after")
    assert await tail(history) == [(1, 1, "before"), (1, 3, "after")]


async def test_in_memory_means_that_no_file_is_made(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    history = opened(":memory:")
    history.store(1, "x", "x")
    assert await tail(history) == [(1, 1, "x")]
    await history.close()
    assert files_in(str(tmp_path / "any")) == []


@pytest.mark.parametrize("caplog_level", [logging.WARNING])
async def test_nothing_is_logged_when_all_is_well(
    caplog_level: int, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(caplog_level):
        history = opened()
        history.store(1, "x", "x")
        await tail(history)
        await history.close()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/h"}, "/h/.ipython/profile_p/history.sqlite"),
        ({"HOME": "/h", "IPYTHONDIR": "/i"}, "/i/profile_p/history.sqlite"),
        ({"HOME": "/h", "IPYTHONDIR": ""}, "/h/.ipython/profile_p/history.sqlite"),
    ],
)
def test_the_default_file_is_that_of_ipythons_profile(environ: dict[str, str], expected: str) -> None:
    assert default_file(environ, "p") == expected
