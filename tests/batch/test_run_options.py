"""`capsule run` with parameters, kernel settings and events for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from capsule_kernel.batch import parameters
from capsule_kernel.cli import main
from capsule_kernel.errors import NotebookError

from .test_run import make, outputs, run, tagged

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-2.5", -2.5),
        ("True", True),
        ("None", None),
        ("[1, 'a']", [1, "a"]),
        ("plain words", "plain words"),
        ("'quoted'", "quoted"),
        ("a=b", "a=b"),
        ("", ""),
        ("true", "true"),
    ],
)
def test_a_parameter_is_a_literal_or_else_the_text(text: str, value: Any) -> None:
    assert parameters.parse(f"name={text}") == ("name", value)


@pytest.mark.parametrize("text", ["name", "=1", "a b=1", "class=1", "1x=2"])
def test_what_is_no_parameter_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=VALUE"):
        parameters.parse(text)


@pytest.mark.parametrize("name", ["__debug__", "__\uff44ebug__", "True"])
def test_what_python_does_not_assign_is_no_parameter(name: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=VALUE"):
        parameters.parse(f"{name}=1")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b", "a", "c"}, "{'a', 'b', 'c'}"),
        (frozenset({"b", "a"}), "frozenset({'a', 'b'})"),
        ({frozenset({"b", "a"}), frozenset({"c", "a"}), 1}, "{1, frozenset({'a', 'b'}), frozenset({'a', 'c'})}"),
        ({10, 9, 2.5}, "{2.5, 9, 10}"),
        ([{"b", "a"}, ({"d", "c"},)], "[{'a', 'b'}, ({'c', 'd'},)]"),
        ({"k": {"b", "a"}, "a": ()}, "{'k': {'a', 'b'}, 'a': ()}"),
        (set(), "set()"),
        (frozenset(), "frozenset()"),
        (float("inf"), 'float("inf")'),
        ([-float("inf"), (1.5,)], '[float("-inf"), (1.5,)]'),
        ({"x": complex(float("-inf"), 2)}, '{"x": complex(float("-inf"), 2.0)}'.replace('"x"', "'x'")),
        (complex(0, -1), "-1j"),
        ("a\udcff", r"'a\udcff'"),
    ],
)
def test_a_value_is_written_the_same_in_each_process_and_reads_as_itself(value: Any, text: str) -> None:
    notebook = new_notebook()
    parameters.inject(notebook, {"x": value}, name="n")
    (source,) = sources(notebook)
    assert source == f"# Parameters\nx = {text}"
    names: dict[str, Any] = {}
    exec(source, names)
    assert names["x"] == value


def test_what_is_no_number_is_written_too() -> None:
    notebook = new_notebook()
    parameters.inject(notebook, {"x": float("nan"), "y": parameters.parse("y=1e999")[1]}, name="n")
    assert sources(notebook) == ['# Parameters\nx = float("nan")\ny = float("inf")']


def sources(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells]


def test_parameters_are_injected_after_their_cell_and_unknown_ones_are_named() -> None:
    notebook = new_notebook(cells=[new_code_cell("0"), tagged("alpha = 1", "parameters"), new_code_cell("alpha")])
    assert parameters.inject(notebook, {"alpha": 2, "beta": "x"}, name="n") == ["beta"]
    assert sources(notebook) == ["0", "alpha = 1", "# Parameters\nalpha = 2\nbeta = 'x'", "alpha"]
    # Again: the injected cell of the earlier run gives way.
    parameters.inject(notebook, {"alpha": 3}, name="n")
    assert sources(notebook) == ["0", "alpha = 1", "# Parameters\nalpha = 3", "alpha"]
    assert notebook.cells[2].metadata["tags"] == ["injected-parameters"]


def test_without_a_cell_of_parameters_they_stand_at_the_top() -> None:
    notebook = new_notebook(cells=[new_code_cell("alpha")])
    assert parameters.inject(notebook, {"alpha": 1}, name="n") == []
    assert sources(notebook) == ["# Parameters\nalpha = 1", "alpha"]
    nbformat.validate(notebook)


def test_parameters_of_another_language_are_refused() -> None:
    notebook = new_notebook(metadata={"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}})
    with pytest.raises(NotebookError, match="Python only"):
        parameters.inject(notebook, {"alpha": 1}, name="n")


def test_a_run_with_parameters_settings_and_events(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.ipynb", tagged("alpha, text = 1, ''", "parameters"), "print(alpha, text)", "get_ipython().xmode"
    )
    config = tmp_path / "config.py"
    config.write_text("c.InteractiveShell.colors = 'nocolor'")
    done = run(
        path,
        *("-p", "alpha=20", "-p", "text=some words", "-p", "gamma=1"),
        *("--kernel-config", config, "--kernel-config", "InteractiveShell.xmode=Plain"),
        *("--kernel-config", "spare_workers=0"),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "note: the cell with the tag 'parameters' does not assign gamma\n"
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "run-started"
    assert kinds[-1] == "run-finished"
    assert kinds.count("cell-finished") == 4
    texts = [event["output"].get("text") for event in events if event["event"] == "output"]
    assert texts[0] == "20 some words\n"
    assert all("T" in event["time"] for event in events)
    assert outputs(tmp_path / "a.executed.ipynb")[3][0].data["text/plain"] == "'Plain'"


def test_wrong_options_are_told_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "a.ipynb", "1")
    for argv, part in [
        (("--kernel-config", "spare_workers=many"), "a whole number"),
        (("--kernel-config", "nope=1"), "CapsuleKernel.nope"),
        (("--kernel-config", "absent.py"), "the path of an existing file"),
    ]:
        assert main(["run", str(path), *argv]) == 2
        assert part in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["run", str(path), "-p", "no value"])
    assert stop.value.code == 2
    assert "expected NAME=VALUE" in capsys.readouterr().err
