"""Completion, inspection and history.

Issue, point 2: history is answered by the front; point 4: history is owned by the front.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from .exchange import plain

if TYPE_CHECKING:
    from pathlib import Path

    from .client import Client
    from .starter import KernelStarter

TYPES = "_jupyter_types_experimental"


def complete(client: Client, code: str, cursor_pos: int | None = None) -> dict[str, Any]:
    return client.ask("complete_request", {"code": code, "cursor_pos": len(code) if cursor_pos is None else cursor_pos})


def test_names_of_the_namespace_are_completed(shared_kernel: Client) -> None:
    shared_kernel.run("remarkable_name = 1")
    reply = complete(shared_kernel, "x = remarka")
    assert reply["matches"] == ["remarkable_name"]
    assert (reply["cursor_start"], reply["cursor_end"]) == (4, 11)


def test_attributes_are_completed(shared_kernel: Client) -> None:
    shared_kernel.run("words = ['a']")
    assert any("append" in match for match in complete(shared_kernel, "words.appe")["matches"])


def test_modules_files_and_magics_are_completed(shared_kernel: Client) -> None:
    assert "importlib" in complete(shared_kernel, "import importl")["matches"]
    assert any(match.endswith("timeit") for match in complete(shared_kernel, "%timei")["matches"])
    (shared_kernel.process.cwd / "peculiar_file.csv").write_text("")
    assert any("peculiar_file.csv" in match for match in complete(shared_kernel, "open('peculiar_f")["matches"])


def test_dictionary_keys_are_completed(shared_kernel: Client) -> None:
    shared_kernel.run("table = {'a_long_key': 1}")
    assert any("a_long_key" in match for match in complete(shared_kernel, "table['a_lo")["matches"])


def test_offsets_count_characters_not_code_units(shared_kernel: Client) -> None:
    shared_kernel.run("remarkable_name = 1")
    code = "'\U0001f600\U0001f600é'; remarka"
    reply = complete(shared_kernel, code)
    assert reply["matches"] == ["remarkable_name"]
    assert (reply["cursor_start"], reply["cursor_end"]) == (len(code) - 7, len(code))


def test_completion_in_the_middle_of_a_line(shared_kernel: Client) -> None:
    shared_kernel.run("remarkable_name = 1")
    reply = complete(shared_kernel, "print(remarka, 2)", cursor_pos=13)
    assert reply["matches"] == ["remarkable_name"]
    assert (reply["cursor_start"], reply["cursor_end"]) == (6, 13)


def test_completions_tell_their_types(shared_kernel: Client) -> None:
    shared_kernel.run("def remarkable_function(): pass")
    (entry,) = complete(shared_kernel, "remarkable_f")["metadata"][TYPES]
    assert entry["text"] == "remarkable_function"
    assert entry["type"] == "function"
    assert (entry["start"], entry["end"]) == (0, 12)


def test_nothing_to_complete_is_no_error(shared_kernel: Client) -> None:
    reply = complete(shared_kernel, "there_is_no_such_name_here")
    assert reply["matches"] == []


def test_completion_leaves_the_collector_as_a_cell_has_set_it(start_kernel: KernelStarter, tmp_path: Path) -> None:
    """parso enables it when it has read a file of its cache, which the first kernel's completion fills."""
    for _ in range(2):
        client = start_kernel(env={"XDG_CACHE_HOME": str(tmp_path)})
        client.run("import gc; gc.disable()")
        assert "ImportError" in complete(client, "Impo")["matches"]
        assert client.run("gc.isenabled()").text == "False"
    assert list(tmp_path.rglob("*.pkl"))


def test_completion_runs_no_code_of_the_user(shared_kernel: Client) -> None:
    shared_kernel.run("class Touchy:\n    @property\n    def value(self):\n        print('touched')\ntouchy = Touchy()")
    complete(shared_kernel, "print('run'); touchy.val")


def inspect(client: Client, code: str, cursor_pos: int | None = None, detail_level: int = 0) -> dict[str, Any]:
    content = {
        "code": code,
        "cursor_pos": len(code) if cursor_pos is None else cursor_pos,
        "detail_level": detail_level,
    }
    return client.ask("inspect_request", content)


def test_inspection_shows_the_docstring(shared_kernel: Client) -> None:
    shared_kernel.run("def documented(a, b=2):\n    'What it does.'\n    return a")
    reply = inspect(shared_kernel, "documented(")
    assert reply["found"] is True
    assert "What it does." in reply["data"]["text/plain"]
    assert "documented(a, b=2)" in plain(reply["data"]["text/plain"])
    detailed = inspect(shared_kernel, "documented", detail_level=1)
    assert "return" in detailed["data"]["text/plain"]


def test_inspection_counts_characters(shared_kernel: Client) -> None:
    assert inspect(shared_kernel, "'\U0001f600\U0001f600'; print", cursor_pos=9)["found"] is True


def test_inspection_of_an_unknown_name_finds_nothing(shared_kernel: Client) -> None:
    reply = inspect(shared_kernel, "there_is_no_such_name_here")
    assert reply["found"] is False
    assert reply["data"] == {}


# --- history ---------------------------------------------------------------------------------------------------------


def history(client: Client, access: str, **kw: Any) -> list[Any]:
    content = {"hist_access_type": access, "output": False, "raw": True, **kw}
    entries = client.ask("history_request", content)["history"]
    assert isinstance(entries, list)
    return entries


@pytest.fixture
def remembering(kernel: Client) -> Client:
    for code in ("first = 1", "%pwd\nsecond = 2", "first + second", "first + second", "first = 10"):
        kernel.run(code).claim("execute_result")
    return kernel


def test_the_tail_is_the_newest_entries(remembering: Client) -> None:
    entries = history(remembering, "tail", n=2)
    assert [entry[2] for entry in entries] == ["first + second", "first = 10"]
    assert [entry[1] for entry in entries] == [4, 5]
    assert len({entry[0] for entry in entries}) == 1


def test_a_range_is_taken_from_a_session(remembering: Client) -> None:
    assert [entry[2] for entry in history(remembering, "range", session=0, start=1, stop=3)] == [
        "first = 1",
        "%pwd\nsecond = 2",
    ]
    session = history(remembering, "tail", n=1)[0][0]
    assert [entry[1] for entry in history(remembering, "range", session=session, start=2, stop=4)] == [2, 3]


def test_input_that_is_not_raw_is_as_transformed(remembering: Client) -> None:
    ((_, _, code),) = history(remembering, "range", session=0, start=2, stop=3, raw=False)
    assert "run_line_magic('pwd'" in code


def test_outputs_come_with_the_range(remembering: Client) -> None:
    ((_, _, pair),) = history(remembering, "range", session=0, start=3, stop=4, output=True)
    assert pair[0] == "first + second"
    assert pair[1] == "3"


def test_a_search_takes_globs(remembering: Client) -> None:
    assert [entry[2] for entry in history(remembering, "search", pattern="first = *")] == ["first = 1", "first = 10"]
    assert len(history(remembering, "search", pattern="first + *")) == 2
    assert len(history(remembering, "search", pattern="first + *", unique=True)) == 1
    assert len(history(remembering, "search", pattern="first*", n=3)) == 3


def test_history_is_there_in_the_next_kernel(start_kernel: KernelStarter) -> None:
    home = start_kernel.directory / "ipython"
    first = start_kernel(env={"IPYTHONDIR": str(home)})
    first.run("remembered = 'yes'")
    first.shutdown()
    first.process.wait_exit()
    second = start_kernel(env={"IPYTHONDIR": str(home)})
    second.run("own = 1")
    assert [entry[2] for entry in history(second, "search", pattern="remembered*")] == ["remembered = 'yes'"]
    assert [entry[2] for entry in history(second, "tail", n=2)] == ["remembered = 'yes'", "own = 1"]


def test_history_magics_show_it(remembering: Client) -> None:
    assert "first = 10" in remembering.run("%history -n 5").stdout
    text = remembering.run("%history -g first = 1*").stdout
    assert "first = 10" in text


def test_history_in_memory_leaves_no_file(start_kernel: KernelStarter) -> None:
    """nbclient passes this argument (issue, point 2: foreign arguments are honoured)."""
    client = start_kernel("--HistoryManager.hist_file=:memory:")
    client.run("secret = 1")
    assert [entry[2] for entry in history(client, "tail", n=1)] == ["secret = 1"]
    client.shutdown()
    client.process.wait_exit()
    assert list(client.process.home.rglob("history.sqlite")) == []


def test_a_later_cell_does_not_overtake_the_answer(kernel: Client) -> None:
    """As on ipykernel: the first query opens the file, which takes longer than a cell."""
    content = {"hist_access_type": "tail", "n": 10, "output": True, "raw": True}
    for _ in range(10):
        asked, cell = kernel.request("history_request", content), kernel.start("1;")
        asked.wait()
        cell.succeeded()
        assert asked.reply is not None
        assert asked.idle is not None
        assert cell.busy is not None
        assert asked.reply.date < asked.idle.date < cell.busy.date


def test_a_history_file_that_is_locked_holds_a_cell_back_for_a_moment_only(start_kernel: KernelStarter) -> None:
    home = start_kernel.directory / "ipython"
    client = start_kernel(env={"IPYTHONDIR": str(home)})
    content = {"hist_access_type": "tail", "n": 1, "output": False, "raw": True}
    client.ask("history_request", content)
    with contextlib.closing(sqlite3.connect(home / "profile_default" / "history.sqlite")) as database:
        database.execute("BEGIN EXCLUSIVE")
        asked, cell = client.request("history_request", content), client.start("1;")
        cell.succeeded()
        assert not asked.is_done
    asked.wait()
