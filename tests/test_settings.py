"""Arguments and configuration files become settings, and what is not the kernel's reaches IPython untouched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from capsule_kernel.errors import ConfigurationError
from capsule_kernel.settings import Launch, Settings, load_launch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose Jupyter folders are empty."""
    return {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_PREFER_ENV_PATH": "no"}


def launch(environ: dict[str, str], *argv: str) -> Launch:
    return load_launch(argv, environ)


def write_config(environ: dict[str, str], text: str, suffix: str = ".py") -> Path:
    from pathlib import Path

    folder = Path(environ["JUPYTER_CONFIG_DIR"])
    folder.mkdir(exist_ok=True)
    path = folder / f"jupyter_capsule_config{suffix}"
    path.write_text(text)
    return path


def test_no_arguments_give_the_defaults(environ: dict[str, str]) -> None:
    assert launch(environ) == Launch(settings=Settings())


@pytest.mark.parametrize(
    "argv",
    [
        ["-f", "/tmp/a.json"],
        ["-f=/tmp/a.json"],
        ["-f/tmp/a.json"],
        ["--f=/tmp/a.json"],
        ["--f", "/tmp/a.json"],
        ["--ConnectionFileMixin.connection_file=/tmp/a.json"],
        ["--IPKernelApp.connection_file=/tmp/a.json"],
    ],
)
def test_every_form_of_the_connection_file_is_understood(environ: dict[str, str], argv: list[str]) -> None:
    assert launch(environ, *argv).connection_file == "/tmp/a.json"


@pytest.mark.parametrize(
    ("argv", "preload"),
    [
        (["--CapsuleKernel.preload=['numpy', 'pandas']"], ("numpy", "pandas")),
        (["--CapsuleKernel.preload=('numpy',)"], ("numpy",)),
        (["--CapsuleKernel.preload=numpy"], ("numpy",)),
        (["--CapsuleKernel.preload", "numpy"], ("numpy",)),
        (["--CapsuleKernel.preload=numpy", "--CapsuleKernel.preload=pandas"], ("numpy", "pandas")),
        (["--CapsuleKernel.preload=[]"], ()),
    ],
)
def test_a_list_is_read_as_traitlets_reads_it(
    environ: dict[str, str], argv: list[str], preload: tuple[str, ...]
) -> None:
    assert launch(environ, *argv).settings.preload == preload


def test_numbers_and_texts_take_the_type_of_the_setting(environ: dict[str, str]) -> None:
    argv = ["--CapsuleKernel.spare_workers=0", "--CapsuleKernel.history_file=/x", "--log-level=20"]
    settings = launch(environ, *argv).settings
    assert (settings.spare_workers, settings.history_file, settings.log_level) == (0, "/x", "INFO")


def test_foreign_arguments_are_kept_untouched_and_in_order(environ: dict[str, str]) -> None:
    foreign = ["--matplotlib", "inline", "--InteractiveShell.colors=NoColor", "--profile=work", "--IPKernelApp.x=[1]"]
    assert launch(environ, "-f", "a.json", *foreign).ipython_args == tuple(foreign)


@pytest.mark.parametrize(
    ("argv", "history_file"),
    [
        (["--HistoryManager.hist_file=:memory:"], ":memory:"),
        (["--HistoryManager.hist_file", "/tmp/h.sqlite"], "/tmp/h.sqlite"),
        (["--HistoryManager.enabled=False"], ":memory:"),
        (["--HistoryManager.enabled=True"], ""),
        (["--HistoryManager.hist_file=/a", "--CapsuleKernel.history_file=/b"], "/b"),
    ],
)
def test_the_history_obeys_ipythons_arguments(environ: dict[str, str], argv: list[str], history_file: str) -> None:
    result = launch(environ, *argv)
    assert result.settings.history_file == history_file
    assert argv[0] in result.ipython_args


def test_ipykernels_connection_arguments_are_honoured(environ: dict[str, str]) -> None:
    argv = ["--ip=127.0.0.2", "--transport=ipc", "--shell=1", "--iopub=2", "--IPKernelApp.stdin_port=3"]
    result = launch(environ, *argv, "--control=4", "--hb=5", "--no-secure", "--debug")
    assert (result.ip, result.transport) == ("127.0.0.2", "ipc")
    ports = (result.shell_port, result.iopub_port, result.stdin_port, result.control_port, result.hb_port)
    assert ports == (1, 2, 3, 4, 5)
    assert result.no_secure
    assert result.debug
    assert result.settings.log_level == "DEBUG"
    assert result.ipython_args == ()


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("--CapsuleKernel.spare_workers=two", ["--CapsuleKernel.spare_workers=two", "whole number"]),
        ("--CapsuleKernel.spare_workers=-1", ["--CapsuleKernel.spare_workers=-1", "0 or greater"]),
        ("--CapsuleKernel.preload=[1]", ["--CapsuleKernel.preload=[1]", "list of texts"]),
        ("--CapsuleKernel.preload=['numpy'", ["--CapsuleKernel.preload=['numpy'", "list of texts"]),
        ("--CapsuleKernel.executor_factory=x", ["--CapsuleKernel.executor_factory=x", "module:attribute"]),
        ("--CapsuleKernel.spare_worker=1", ["--CapsuleKernel.spare_worker=1", "did you mean spare_workers?"]),
        ("--CapsuleKernel.spare_workers", ["--CapsuleKernel.spare_workers", "a value"]),
        ("--CapsuleKernel.durability=always", ["durability", "always", "off, embedded, remote"]),
        ("--log-level=LOUD", ["log_level", "LOUD", "DEBUG, INFO"]),
        ("--transport=udp", ["--transport=udp", "tcp or ipc"]),
        ("--shell=65536", ["--shell=65536", "port number"]),
        ("--config=/no/such/file.py", ["--config=/no/such/file.py", "existing file"]),
        ("-f", ["-f", "a value"]),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_expected(
    environ: dict[str, str], argument: str, parts: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        launch(environ, argument)
    for part in parts:
        assert part in str(caught.value)


def test_a_python_file_configures_the_kernel_and_ipython(environ: dict[str, str]) -> None:
    write_config(
        environ,
        "c = get_config()\n"
        "c.CapsuleKernel.spare_workers = 3\n"
        "c.CapsuleKernel.preload.append('numpy')\n"
        "c.InteractiveShell.colors = 'NoColor'\n"
        "c.HistoryManager.enabled = False\n",
    )
    result = launch(environ, "--profile=work")
    assert (result.settings.spare_workers, result.settings.preload) == (3, ("numpy",))
    assert result.settings.history_file == ":memory:"
    assert result.ipython_args == (
        "--InteractiveShell.colors=NoColor",
        "--HistoryManager.enabled=False",
        "--profile=work",
    )


def test_a_json_file_configures_too_and_arguments_win(environ: dict[str, str]) -> None:
    write_config(environ, json.dumps({"CapsuleKernel": {"spare_workers": 3, "flush_tick_ms": 7}}), ".json")
    settings = launch(environ, "--CapsuleKernel.spare_workers=2").settings
    assert (settings.spare_workers, settings.flush_tick_ms) == (2, 7)


def test_a_folder_of_higher_priority_wins(environ: dict[str, str], tmp_path: Path) -> None:
    write_config(environ, "c.CapsuleKernel.spare_workers = 3\nc.CapsuleKernel.flush_tick_ms = 7\n")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "jupyter_capsule_config.py").write_text("c.CapsuleKernel.spare_workers = 4\n")
    settings = launch(environ | {"JUPYTER_CONFIG_PATH": str(tmp_path / "site")}).settings
    assert (settings.spare_workers, settings.flush_tick_ms) == (4, 7)


def test_a_named_file_wins_over_the_folders(environ: dict[str, str], tmp_path: Path) -> None:
    write_config(environ, "c.CapsuleKernel.spare_workers = 3\n")
    extra = tmp_path / "mine.py"
    extra.write_text("c.CapsuleKernel.spare_workers = 5\n")
    assert launch(environ, f"--config={extra}").settings.spare_workers == 5


def test_a_file_in_the_current_folder_is_not_read(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jupyter_capsule_config.py").write_text("raise SystemExit('read')\n")
    monkeypatch.chdir(tmp_path)
    assert launch(environ).settings == Settings()


@pytest.mark.parametrize(
    ("text", "suffix", "part"),
    [
        ("c.CapsuleKernel.spare_workers = 'x'\n", ".py", "whole number"),
        ("c.CapsuleKernel.nonsense = 1\n", ".py", "CapsuleKernel.nonsense"),
        ("this is no Python\n", ".py", "SyntaxError"),
        ("1 / 0\n", ".py", "ZeroDivisionError"),
        ("raise SystemExit(3)\n", ".py", "SystemExit"),
        ("{broken", ".json", "configuration file without errors"),
        ("c.InteractiveShell.x = object()\n", ".py", "ipython_kernel_config.py"),
    ],
)
def test_a_broken_file_is_named_with_the_reason(environ: dict[str, str], text: str, suffix: str, part: str) -> None:
    path = write_config(environ, text, suffix)
    with pytest.raises(ConfigurationError) as caught:
        launch(environ)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


FOLDERS = """
import json, os
from capsule_kernel.settings import config_folders
ours = config_folders(os.environ)
from jupyter_core.paths import jupyter_config_path
print(json.dumps([ours, jupyter_config_path()]))
"""


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"JUPYTER_CONFIG_DIR": "/a/b"},
        {"JUPYTER_CONFIG_PATH": "/x/:/y"},
        {"JUPYTER_PREFER_ENV_PATH": "1"},
        {"JUPYTER_PREFER_ENV_PATH": "off"},
        {"PYTHONNOUSERSITE": "1"},
        {"JUPYTER_PLATFORM_DIRS": "1"},
    ],
)
def test_the_folders_are_those_of_jupyter(variables: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER_")}
    output = subprocess.run(
        [sys.executable, "-c", FOLDERS], env=kept | variables, check=True, capture_output=True, timeout=30
    ).stdout
    ours, jupyters = json.loads(output)
    assert ours == jupyters


def test_jupyters_switch_turns_configuration_off(environ: dict[str, str]) -> None:
    write_config(environ, "c.CapsuleKernel.spare_workers = 3\n")
    assert launch(environ | {"JUPYTER_NO_CONFIG": "1"}).settings == Settings()


def test_reading_arguments_loads_no_heavy_module(environ: dict[str, str]) -> None:
    program = (
        "import os, sys\n"
        "from capsule_kernel.settings import load_launch\n"
        "load_launch(['-f', 'a.json', '--HistoryManager.hist_file=:memory:', '--CapsuleKernel.spare_workers=0'],"
        " os.environ)\n"
        "print(*{'traitlets', 'jupyter_core', 'argparse', 'pathlib', 'IPython', 'zmq'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=os.environ | environ, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == []
