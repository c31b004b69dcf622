"""The notebooks that teach do what they say."""

from __future__ import annotations

from pathlib import Path

import nbformat

from .test_durable_runs import Place

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def texts(path: Path) -> list[str]:
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]


def test_state(tmp_path: Path) -> None:
    done = Place(tmp_path).command("run", NOTEBOOKS / "state.ipynb", "--output", tmp_path / "out.ipynb")
    assert done.returncode == 0, done.stderr
    found = texts(tmp_path / "out.ipynb")
    assert "live only: numbers:" in found[1]
    assert "removed: left_over" in found[3]
    assert found[4] == "[4. 5. 6. 7.] [0. 1. 2. 3.] True\n100.0 False\n"
    assert found[5].endswith("kept 0.0\n")
    assert found[6] == "(3, 4)\n"


def test_durable(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for _ in range(2):
        done = place.command("run", NOTEBOOKS / "durable.ipynb", "--id", "demo", "--output", tmp_path / "out.ipynb")
        assert done.returncode == 0, done.stderr
        assert texts(tmp_path / "out.ipynb") == [
            "began\n",
            "total 3\n",
            "[0, 1, 4, 9, 16]\n",
            "finished with 3 30\n",
        ]
    assert "4 cells finished earlier" in done.stderr


def test_questions(tmp_path: Path) -> None:
    place = Place(tmp_path)
    done = place.command("run", NOTEBOOKS / "questions.ipynb", "--id", "breakfast", "--output", tmp_path / "out.ipynb")
    assert done.returncode == 0, done.stderr
    assert texts(tmp_path / "out.ipynb") == [
        "",
        "an omelette of 12\n",
        "it was answered by the command\n",
        "salt: a pinch\n",
    ]
