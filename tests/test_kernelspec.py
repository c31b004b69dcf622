"""`capsule install` and `uninstall` make Jupyter list the kernel, or say why they cannot."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from capsule_kernel.cli import main
from capsule_kernel.kernelspec import kernel_spec

LOGOS = {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"}


@pytest.fixture(autouse=True)
def own_jupyter_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "prefix" / "share" / "jupyter"))


def test_installing_the_package_is_enough_for_jupyter_to_list_it() -> None:
    spec = KernelSpecManager().get_kernel_spec("capsule")
    assert Path(spec.resource_dir) == Path(sys.prefix, "share", "jupyter", "kernels", "capsule")
    assert LOGOS | {"kernel.json"} == set(os.listdir(spec.resource_dir))
    assert spec.to_dict() == kernel_spec(executable="python") | {"env": {}}


def test_the_wheels_spec_and_the_installed_one_say_the_same() -> None:
    packaged = json.loads(Path(__file__).parent.parent.joinpath("kernelspec", "kernel.json").read_text())
    assert packaged == kernel_spec(executable="python")


def test_install_for_the_user_can_be_listed_and_removed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["install", "--user", "--name", "mine", "--display-name", "Mine", "--env", "A", "b c"]) == 0
    spec = KernelSpecManager().get_kernel_spec("mine")
    assert Path(spec.resource_dir) == tmp_path / "user" / "kernels" / "mine"
    assert spec.argv[0] == sys.executable
    assert (spec.display_name, spec.env, spec.interrupt_mode) == ("Mine", {"A": "b c"}, "message")
    assert set(os.listdir(spec.resource_dir)) == LOGOS | {"kernel.json"}
    assert main(["uninstall", "--name", "mine"]) == 0
    assert "mine" not in KernelSpecManager().find_kernel_specs()
    assert os.listdir(tmp_path / "user" / "kernels") == []
    assert "removed the kernelspec mine" in capsys.readouterr().out


def test_install_into_a_prefix_replaces_its_own_earlier_one(tmp_path: Path) -> None:
    prefix = str(tmp_path / "prefix")
    assert main(["install", "--prefix", prefix, "--name", "one"]) == 0
    assert main(["install", "--prefix", prefix, "--name", "one", "--display-name", "Second"]) == 0
    assert KernelSpecManager().get_kernel_spec("one").display_name == "Second"
    assert os.listdir(tmp_path / "prefix" / "share" / "jupyter" / "kernels") == ["one"]


def test_a_prefix_that_jupyter_does_not_search_is_pointed_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "--prefix", str(tmp_path / "far")]) == 0
    assert f"JUPYTER_PATH={tmp_path}/far/share/jupyter" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["two words", "a/b", "", "..", "naïve"])
def test_a_bad_name_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--user", "--name", name]) == 1
    assert "ASCII letters" in capsys.readouterr().err


def test_another_kernels_spec_is_neither_replaced_nor_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "user" / "kernels" / "r"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text('{"argv": ["R"], "display_name": "R", "language": "R"}')
    assert main(["install", "--user", "--name", "r"]) == 1
    assert main(["uninstall", "--user", "--name", "r"]) == 1
    assert json.loads((other / "kernel.json").read_text())["argv"] == ["R"]
    errors = capsys.readouterr().err
    assert "another kernel has this name" in errors
    assert "jupyter kernelspec remove" in errors


def test_what_is_not_installed_cannot_be_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["uninstall", "--name", "absent"]) == 1
    assert f"not installed in {tmp_path}" in capsys.readouterr().err


def test_one_name_in_two_places_asks_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = str(tmp_path / "prefix")
    assert main(["install", "--user", "--name", "both"]) == 0
    assert main(["install", "--prefix", prefix, "--name", "both"]) == 0
    assert main(["uninstall", "--name", "both"]) == 1
    assert "say which" in capsys.readouterr().err
    assert main(["uninstall", "--name", "both", "--prefix", prefix]) == 0
    assert main(["uninstall", "--name", "both"]) == 0


def test_the_packages_own_spec_stays_until_the_package_goes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["uninstall", "--sys-prefix"]) == 1
    assert "pip uninstall capsule-kernel" in capsys.readouterr().err
    assert "capsule" in KernelSpecManager().find_kernel_specs()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["install", "--prefix", str(tmp_path / "file")]) == 1
    assert f"{tmp_path}/file/share/jupyter/kernels/capsule: Not a directory" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_missing_permission_suggests_other_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert main(["install", "--prefix", str(tmp_path / "locked")]) == 1
    assert "use --user" in capsys.readouterr().err


def test_a_variable_without_a_proper_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--user", "--env", "A=B", "c"]) == 1
    assert "--env A=B" in capsys.readouterr().err
