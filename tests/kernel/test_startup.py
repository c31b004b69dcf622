"""How a kernel is configured and started, and what it says about bad input.

Issue, point 2: traitlets-style arguments and a `jupyter_capsule_config.py` configure it; foreign arguments are
honoured; IPython's profile start-up files, `ipython_config.py` and `ipython_kernel_config.py` apply to every worker.
"Bad input gets a clear error and loses nothing: a missing or malformed connection file, a port in use".
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from .client import Client
from .process import connection_info, isolated_environment, kernel_command
from .starter import only_capsule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .starter import KernelStarter


def profile(directory: Path, name: str = "default") -> Path:
    path = directory / "ipython" / f"profile_{name}"
    (path / "startup").mkdir(parents=True)
    return path


def replaced(kernel: Client) -> Iterator[Client]:
    """The kernel with its first worker, then with its second and third."""
    yield kernel
    if not kernel.process_is_ipykernel():
        for _ in range(2):
            kernel.execute("import os; os._exit(1)").ignore_outputs()
            yield kernel


def test_startup_files_run_in_every_worker_in_order(start_kernel: KernelStarter) -> None:
    startup = profile(start_kernel.directory) / "startup"
    (startup / "00-first.py").write_text("order = ['first']\nimport os as started_os\n")
    (startup / "10-second.ipy").write_text("order.append('second')\nhere = %pwd\n")
    kernel = start_kernel(env={"IPYTHONDIR": str(start_kernel.directory / "ipython")})
    for each in replaced(kernel):
        assert each.evaluate("order") == "['first', 'second']"
        assert each.evaluate("here") == repr(str(kernel.process.cwd))


@pytest.mark.parametrize("name", ["ipython_config.py", "ipython_kernel_config.py"])
def test_configuration_applies_to_every_worker(name: str, start_kernel: KernelStarter) -> None:
    (profile(start_kernel.directory) / name).write_text(
        "c = get_config()\n"
        "c.InteractiveShell.ast_node_interactivity = 'all'\n"
        "c.InteractiveShellApp.exec_lines = ['configured = 1']\n"
    )
    kernel = start_kernel(env={"IPYTHONDIR": str(start_kernel.directory / "ipython")})
    for each in replaced(kernel):
        assert each.evaluate("configured") == "1"
        cell = each.run("'a'\n'b'")
        assert [m.content["data"]["text/plain"] for m in cell.claim("execute_result")] == ["'a'", "'b'"]


def test_extensions_of_the_configuration_are_loaded(start_kernel: KernelStarter) -> None:
    (profile(start_kernel.directory) / "ipython_config.py").write_text(
        "c = get_config()\nc.InteractiveShellApp.extensions = ['autoreload']\n"
    )
    kernel = start_kernel(env={"IPYTHONDIR": str(start_kernel.directory / "ipython")})
    for each in replaced(kernel):
        each.run("%autoreload 0")


def test_a_profile_is_chosen_by_argument(start_kernel: KernelStarter) -> None:
    startup = profile(start_kernel.directory, "other") / "startup"
    (startup / "00.py").write_text("profile_was = 'other'\n")
    kernel = start_kernel("--profile=other", env={"IPYTHONDIR": str(start_kernel.directory / "ipython")})
    for each in replaced(kernel):
        assert each.evaluate("profile_was") == "'other'"


def test_a_startup_file_that_fails_does_not_keep_the_kernel_from_starting(start_kernel: KernelStarter) -> None:
    startup = profile(start_kernel.directory) / "startup"
    (startup / "00-bad.py").write_text("1 / 0\n")
    kernel = start_kernel(env={"IPYTHONDIR": str(start_kernel.directory / "ipython")})
    cell = kernel.run("6 * 7")
    assert cell.text == "42"
    # Where its error is told is open; that it is told is not.
    told = cell.stdout + cell.stderr
    kernel.drain()
    told += "".join(str(m.content["text"]) for m in kernel.claim_unparented("stream")) + kernel.process.log()
    assert "ZeroDivisionError" in told


@only_capsule("its configuration file")
class TestConfigurationFile:
    def test_it_configures_the_kernel_and_ipython(self, start_kernel: KernelStarter) -> None:
        config = start_kernel.directory / "config"
        config.mkdir()
        (config / "jupyter_capsule_config.py").write_text(
            "c = get_config()\n"
            "c.CapsuleKernel.preload = ['colorsys']\n"
            "c.CapsuleKernel.spare_workers = 0\n"
            "c.InteractiveShell.ast_node_interactivity = 'none'\n"
        )
        kernel = start_kernel(env={"JUPYTER_CONFIG_DIR": str(config)})
        for each in replaced(kernel):
            each.run("'not shown'")
            assert each.evaluate("'colorsys' in __import__('sys').modules") == "True"

    def test_arguments_win_over_it(self, start_kernel: KernelStarter) -> None:
        config = start_kernel.directory / "config"
        config.mkdir()
        (config / "jupyter_capsule_config.py").write_text("get_config().CapsuleKernel.preload = ['colorsys']\n")
        kernel = start_kernel("--CapsuleKernel.preload=['wave']", env={"JUPYTER_CONFIG_DIR": str(config)})
        assert kernel.evaluate("[m in __import__('sys').modules for m in ('wave', 'colorsys')]") == "[True, False]"

    def test_a_setting_with_a_wrong_value_is_refused_by_name(self, tmp_path: Path) -> None:
        result = launch(tmp_path, connection_info(tmp_path), "--CapsuleKernel.spare_workers=many")
        assert_clear_failure(result, "spare_workers", "many")


@only_capsule("preload")
def test_preload_is_imported_in_every_worker(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.preload=['colorsys', 'xml.dom']")
    for each in replaced(kernel):
        assert each.evaluate("[m in __import__('sys').modules for m in ('colorsys', 'xml.dom')]") == "[True, True]"
        # Preloaded is imported, not named.
        assert each.execute("colorsys").ename == "NameError"


@only_capsule("preload")
def test_a_preload_that_fails_is_told_and_the_kernel_starts(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--CapsuleKernel.preload=['no_such_module_anywhere', 'colorsys']")
    cell = kernel.execute("6 * 7")
    assert cell.text == "42"
    told = cell.stdout + cell.stderr
    kernel.drain()
    told += "".join(str(m.content["text"]) for m in kernel.claim_unparented("stream")) + kernel.process.log()
    assert "no_such_module_anywhere" in told


@only_capsule("preload")
def test_a_preload_that_is_noisy_disturbs_nothing(start_kernel: KernelStarter) -> None:
    (start_kernel.directory / "lib").mkdir()
    (start_kernel.directory / "lib" / "noisy_module.py").write_text(
        "import os, sys\nprint('noise')\nprint('noise', file=sys.stderr)\nos.write(1, b'raw noise\\n')\n"
    )
    kernel = start_kernel(
        "--CapsuleKernel.preload=['noisy_module']", env={"PYTHONPATH": str(start_kernel.directory / "lib")}
    )
    assert kernel.run("'clean'").text == "'clean'"
    # What it said belongs to no cell.
    kernel.drain()
    kernel.claim_unparented("stream")


def test_ipython_arguments_are_honoured(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--InteractiveShell.ast_node_interactivity=all", "--colors=nocolor")
    for each in replaced(kernel):
        cell = each.run("1\n2")
        assert [m.content["data"]["text/plain"] for m in cell.claim("execute_result")] == ["1", "2"]
        failed = each.execute("1 / 0")
        assert "\x1b[" not in "".join(failed.error["traceback"])


def test_matplotlib_argument_is_honoured(start_kernel: KernelStarter) -> None:
    kernel = start_kernel("--matplotlib=inline")
    cell = kernel.run("import matplotlib.pyplot as plt\n_ = plt.plot([1])", timeout_s=40)
    assert "image/png" in cell.displays[0]["data"]


def test_the_session_name_is_given_to_the_namespace(start_kernel: KernelStarter) -> None:
    kernel = start_kernel(env={"JPY_SESSION_NAME": "/home/somebody/notebook.ipynb"})
    assert kernel.evaluate("__session__") == "'/home/somebody/notebook.ipynb'"


@pytest.mark.parametrize("form", ["-f {}", "--f={}", "-f={}"])
def test_the_connection_file_is_named_in_every_usual_form(form: str, tmp_path: Path) -> None:
    if kernel_command("x")[2] == "ipykernel_launcher":
        pytest.skip("the same for every kernel")
    from .process import KernelProcess

    file = tmp_path / "connection.json"
    info = connection_info(tmp_path)
    file.write_text(json.dumps(info))
    command = [*kernel_command("x")[:-2], *form.format(file).split(" ")]
    home = tmp_path / "home"
    home.mkdir()
    popen = subprocess.Popen(
        command, env=isolated_environment(home), start_new_session=True, stdin=subprocess.DEVNULL, cwd=tmp_path
    )
    process = KernelProcess(directory=tmp_path, info=info, popen=popen, mark="none", environment={}, cwd=tmp_path)
    for name in ("stdout.txt", "stderr.txt"):
        (tmp_path / name).write_text("")
    try:
        with Client(process) as client:
            assert client.run("6 * 7").text == "42"
            client.shutdown()
            process.wait_exit()
    finally:
        if popen.poll() is None:
            popen.kill()
            popen.wait()


# --- bad input -------------------------------------------------------------------------------------------------------


def launch(directory: Path, info: object, *args: str, raw: str | None = None) -> subprocess.CompletedProcess[str]:
    """Start a kernel that is expected to refuse; `info` None leaves the connection file out."""
    home = directory / "home"
    home.mkdir(exist_ok=True)
    file = directory / "connection.json"
    if raw is not None:
        file.write_text(raw)
    elif info is not None:
        file.write_text(json.dumps(info))
    environment = isolated_environment(home) | {"JPY_PARENT_PID": str(os.getpid())}
    return subprocess.run(
        kernel_command(file, *args),
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=10,
        start_new_session=True,
        check=False,
    )


def assert_clear_failure(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Status not 0; one line on standard error that names what was wrong; no traceback."""
    assert result.returncode not in {0, None}
    assert result.returncode > 0
    lines = result.stderr.strip().splitlines()
    assert "Traceback" not in result.stderr
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]


@only_capsule("ipykernel makes the missing file, and shows tracebacks")
class TestBadInput:
    @pytest.mark.parametrize(
        "raw",
        ["", "not json", "[]", "{}", '{"ip": "127.0.0.1"}', "null", "\x00", '{"shell_port": 1, '],
        ids=["empty", "no-json", "list", "empty-object", "fields-missing", "null", "binary", "cut-off"],
    )
    def test_a_malformed_connection_file_is_named(self, raw: str, tmp_path: Path) -> None:
        assert_clear_failure(launch(tmp_path, None, raw=raw), str(tmp_path / "connection.json"))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("shell_port", "many"),
            ("shell_port", -1),
            ("shell_port", 70_000),
            ("transport", "pigeon"),
            ("ip", 5),
            ("key", 7),
            ("signature_scheme", "rot13"),
            ("signature_scheme", "hmac-md0"),
        ],
    )
    def test_a_wrong_field_is_named(self, name: str, value: object, tmp_path: Path) -> None:
        result = launch(tmp_path, connection_info(tmp_path) | {name: value})
        assert_clear_failure(result, str(tmp_path / "connection.json"), name)

    def test_a_missing_connection_file_is_named(self, tmp_path: Path) -> None:
        assert_clear_failure(launch(tmp_path, None), str(tmp_path / "connection.json"))

    def test_an_unreadable_connection_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "connection.json").mkdir()
        assert_clear_failure(launch(tmp_path, None), str(tmp_path / "connection.json"))

    @pytest.mark.parametrize("channel", ["shell", "iopub", "stdin", "control", "hb"])
    def test_a_port_in_use_is_named(self, channel: str, tmp_path: Path) -> None:
        info = connection_info(tmp_path)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", info[f"{channel}_port"]))
            taken.listen()
            result = launch(tmp_path, info)
        assert_clear_failure(result, str(info[f"{channel}_port"]), channel)

    def test_an_address_that_is_not_this_machines_is_named(self, tmp_path: Path) -> None:
        result = launch(tmp_path, connection_info(tmp_path) | {"ip": "192.0.2.1"})
        assert_clear_failure(result, "192.0.2.1")


@only_capsule("ipykernel prints more")
def test_without_a_connection_file_one_is_made_and_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = isolated_environment(home) | {"JPY_PARENT_PID": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        kernel_command("x")[:-2],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as popen:
        try:
            assert popen.stdout is not None
            told = ""
            while not (match := re.search(r"--existing (\S+\.json)", told)):
                line = popen.stdout.readline()
                assert line, told
                told += line
            (path,) = (home / "runtime").glob(match[1].rpartition("/")[2])
            assert json.loads(path.read_text())["shell_port"] > 0
            # The key in it lets whoever reads it run code.
            assert path.stat().st_mode & 0o077 == 0
        finally:
            popen.terminate()
    assert list((home / "runtime").glob("kernel-*.json")) == []
