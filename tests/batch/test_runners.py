"""papermill, nbconvert and Jupyter's commands run notebooks on Capsule, and give what they give on ipykernel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from capsule_kernel import kernelspec

from .test_run import make, outputs, tagged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
BOTH = ("capsule", "python3")
CELLS = (
    tagged("alpha = 1", "parameters"),
    "import sys\nprint('alpha is', alpha)\nprint('careful', file=sys.stderr)\nalpha * 2",
    "display({'text/html': '<b>x</b>', 'text/plain': 'x'}, raw=True)",
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Both kernelspecs in a place of the test's own."""
    for name in BOTH:
        spec = kernelspec.kernel_spec(executable=sys.executable)
        if name == "python3":
            spec |= {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "interrupt_mode": "signal",
            }
        folder = tmp_path / "jupyter" / "kernels" / name
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps(spec))
    return os.environ | {"JUPYTER_PATH": str(tmp_path / "jupyter"), "IPYTHONDIR": str(tmp_path / "ipython")}


def call(environment: dict[str, str], folder: Path, *argv: str, text: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *argv],
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def plain(path: Path) -> list[Any]:
    return [[dict(output) for output in cell] for cell in outputs(path)]


def test_papermill_fills_in_parameters(environment: dict[str, str], tmp_path: Path) -> None:
    make(tmp_path / "a.ipynb", *CELLS, kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"})
    for kernel in BOTH:
        argv = ("a.ipynb", f"{kernel}.ipynb", "-k", kernel, "-p", "alpha", "21", "--no-progress-bar")
        call(environment, tmp_path, "papermill", *argv)
    first, second = (plain(tmp_path / f"{kernel}.ipynb") for kernel in BOTH)
    assert first == second
    assert first[2][0]["text"] == "alpha is 21\n"


def test_nbconvert_executes(environment: dict[str, str], tmp_path: Path) -> None:
    make(tmp_path / "a.ipynb", *CELLS)
    for kernel in BOTH:
        argv = ("--execute", "--to", "notebook", "a.ipynb", "--output", f"{kernel}.ipynb")
        call(environment, tmp_path, "nbconvert", *argv, f"--ExecutePreprocessor.kernel_name={kernel}")
    first, second = (plain(tmp_path / f"{kernel}.ipynb") for kernel in BOTH)
    assert first == second
    assert first[1][0]["text"] == "alpha is 1\n"


def test_jupyter_execute_runs_in_place(environment: dict[str, str], tmp_path: Path) -> None:
    results = []
    for kernel in BOTH:
        make(tmp_path / f"{kernel}.ipynb", *CELLS)
        argv = ("execute", f"{kernel}.ipynb", "--inplace", f"--kernel_name={kernel}")
        call(environment, tmp_path, "jupyter", *argv)
        results.append(plain(tmp_path / f"{kernel}.ipynb"))
    assert results[0] == results[1]
    assert results[0][1][0]["text"] == "alpha is 1\n"


def test_jupyter_run_runs_scripts(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("print('from a script')\n6 * 7\n")
    first, second = (call(environment, tmp_path, "jupyter", "run", f"--kernel={kernel}", "s.py") for kernel in BOTH)
    assert first == second
    assert "from a script" in first


def test_the_console_runs_lines(environment: dict[str, str], tmp_path: Path) -> None:
    shown = []
    for kernel in BOTH:
        argv = ("console", f"--kernel={kernel}", "--simple-prompt")
        text = call(environment, tmp_path, "jupyter", *argv, text="print('typed')\n6 * 7\nexit\n")
        shown.append(re.findall(r"typed|\b42\b", text))
    assert shown[0] == shown[1] == ["typed", "42"]
