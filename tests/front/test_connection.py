"""Connection files: those of jupyter_client are read, ours are read by it, and what is wrong with one is said."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_core.paths import jupyter_runtime_dir

from capsule_kernel.errors import ConnectionFileError
from capsule_kernel.front.connection import (
    CHANNELS,
    Connection,
    find_connection_file,
    new_connection,
    read_connection,
    runtime_folder,
    write_connection,
)
from capsule_kernel.settings import Launch, Settings

PORTS: dict[str, Any] = {f"{channel}_port": 50_000 + number for number, channel in enumerate(CHANNELS)}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of the test's own, and nothing of Jupyter's in the environment."""
    for name in [name for name in os.environ if name.startswith(("JUPYTER", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "0")


def file_with(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "connection.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


def complaint(path: str) -> str:
    with pytest.raises(ConnectionFileError) as caught:
        read_connection(path)
    assert caught.value.path == path
    assert path in str(caught.value)
    return caught.value.reason


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_files_of_jupyter_client_are_read(transport: str, tmp_path: Path) -> None:
    path, written = write_connection_file(
        str(tmp_path / "k.json"),
        transport=transport,
        ip=str(tmp_path / "ipc") if transport == "ipc" else "127.0.0.1",
        key=b"a-key",
        kernel_name="capsule",
        signature_scheme="hmac-sha512",
    )
    connection = read_connection(path)
    assert {name: getattr(connection, name) for name in written} == written
    client = BlockingKernelClient(connection_file=path)
    client.load_connection_file()
    for channel in CHANNELS:
        assert connection.address(channel) == client._make_url(channel)


def test_unknown_fields_are_ignored_and_those_that_may_be_missing_have_defaults(tmp_path: Path) -> None:
    connection = read_connection(file_with(tmp_path, PORTS | {"new": {"a": [1]}}))
    assert (connection.transport, connection.ip, connection.key) == ("tcp", "127.0.0.1", "")
    assert connection.signature_scheme == "hmac-sha256"


def test_a_port_of_zero_asks_for_any_free_one() -> None:
    assert Connection(**(PORTS | dict.fromkeys(PORTS, 0))).address("shell") == "tcp://127.0.0.1:*"


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    assert "no such file; give -f the path" in complaint(str(tmp_path / "none.json"))


def test_a_folder_is_no_connection_file(tmp_path: Path) -> None:
    assert "cannot be read: Is a directory" in complaint(str(tmp_path))


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_missing_port_is_named(channel: str, tmp_path: Path) -> None:
    ports = {name: port for name, port in PORTS.items() if name != f"{channel}_port"}
    assert f"{channel}_port" in complaint(file_with(tmp_path, ports))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"shell_port": "80"}, ["shell_port", "`str`"]),
        ({"hb_port": -1}, ["hb_port", ">= 0"]),
        ({"hb_port": 65_536}, ["hb_port", "<= 65535"]),
        ({"hb_port": 1.5}, ["hb_port", "int"]),
        ({"key": None}, ["key", "null"]),
        ({"ip": 5}, ["ip", "`int`"]),
        ({"transport": "pgm"}, ["transport is 'pgm'", "'tcp' or 'ipc'"]),
        ({"signature_scheme": "rot13"}, ["signature_scheme", "'rot13'", "hmac-sha256"]),
        ({"signature_scheme": "hmac-shake_256"}, ["signature_scheme", "'hmac-shake_256'", "hmac-sha256"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(changes: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    reason = complaint(file_with(tmp_path, PORTS | changes))
    assert all(part in reason for part in parts), reason


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'"\xff"',
        b'{"ip":"\xff"}',
        pytest.param(b'{"x":' + b"[" * 100_000, id="deep"),
    ],
)
def test_what_is_no_object_is_refused(content: bytes, tmp_path: Path) -> None:
    assert "not a connection file" in complaint(file_with(tmp_path, content))


# --- writing --------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_by_jupyter_client_and_by_us(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "folder" / "k.json")
    connection = Connection(**PORTS, key="sécret", kernel_name="capsule")
    write_connection(path, connection)
    assert read_connection(path) == connection
    client = BlockingKernelClient(connection_file=path)
    client.load_connection_file()
    assert client.session.key == "sécret".encode()
    assert [getattr(client, name) for name in PORTS] == list(PORTS.values())


@pytest.mark.parametrize("mode", [None, 0o644, 0o666])
def test_what_is_written_can_be_read_by_the_user_only(mode: int | None, tmp_path: Path) -> None:
    path = tmp_path / "made" / "k.json"
    if mode is not None:
        path.parent.mkdir()
        path.write_text("x" * 10_000)
        path.chmod(mode)
    before = os.umask(0)
    try:
        write_connection(str(path), Connection(**PORTS, key="secret"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if mode is None:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert json.loads(path.read_text())["key"] == "secret"


@pytest.mark.parametrize("where", ["file/k.json", "folder"])
def test_a_file_that_cannot_be_written_is_named(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    path = str(tmp_path / where)
    with pytest.raises(ConnectionFileError, match="cannot be written") as caught:
        write_connection(path, Connection(**PORTS))
    assert caught.value.path == path


# --- finding and making ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"JUPYTER_RUNTIME_DIR": "/run/j"},
        {"JUPYTER_DATA_DIR": "/data/j"},
        {"XDG_DATA_HOME": "/xdg"},
        {"JUPYTER_RUNTIME_DIR": "", "XDG_DATA_HOME": "/xdg"},
        {"JUPYTER_DATA_DIR": "/data/j", "XDG_DATA_HOME": "/xdg"},
    ],
)
def test_the_runtime_folder_is_jupyter_cores(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert runtime_folder() == jupyter_runtime_dir()


def test_a_name_is_looked_for_here_and_then_in_the_runtime_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_connection_file("k.json") == f"{runtime_folder()}/k.json"
    assert find_connection_file("sub/k.json") == str(tmp_path / "sub" / "k.json")
    assert find_connection_file("/abs/k.json") == "/abs/k.json"
    (tmp_path / "k.json").write_text("{}")
    assert find_connection_file("k.json") == str(tmp_path / "k.json")


def test_a_kernel_started_by_hand_gets_a_file_with_a_key_and_free_ports() -> None:
    path, connection = new_connection(Launch(settings=Settings()), "5e55")
    assert path == f"{runtime_folder()}/kernel-{os.getpid()}.json"
    assert connection.transport == "tcp"
    assert [connection.address(channel) for channel in CHANNELS] == ["tcp://127.0.0.1:*"] * 5
    assert len(connection.key) >= 32
    assert new_connection(Launch(settings=Settings()), "5e55")[1].key != connection.key


def test_arguments_change_what_is_made_by_hand() -> None:
    launch = Launch(settings=Settings(), ip="127.0.0.2", shell_port=4000, no_secure=True)
    _, connection = new_connection(launch, "5e55")
    assert connection.address("shell") == "tcp://127.0.0.2:4000"
    assert connection.address("hb") == "tcp://127.0.0.2:*"
    assert connection.key == ""


def test_ipc_files_of_a_kernel_started_by_hand_differ_by_channel_and_kernel() -> None:
    launch = Launch(settings=Settings(), transport="ipc")
    addresses = [
        new_connection(launch, session)[1].address(channel)
        for session in ("aaaaaaaa0", "bbbbbbbb0")
        for channel in CHANNELS
    ]
    assert len(set(addresses)) == 10
    assert all(address.startswith(f"ipc://{runtime_folder()}/kernel-") for address in addresses)
