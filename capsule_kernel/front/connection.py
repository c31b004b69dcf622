"""The connection file: where the channels listen, and with what key messages are signed.

Source: Jupyter client, "Connection files".
"""

from __future__ import annotations

import os
import uuid
from typing import Annotated

import msgspec

from capsule_kernel.errors import ConfigurationError, ConnectionFileError
from capsule_kernel.settings import Launch

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a connection file. A port of 0 means any free one."""

    transport: str = "tcp"
    ip: str = "127.0.0.1"
    shell_port: Port
    iopub_port: Port
    stdin_port: Port
    control_port: Port
    hb_port: Port
    key: str = ""
    signature_scheme: str = "hmac-sha256"
    kernel_name: str = ""
    jupyter_session: str = ""
    curve_publickey: str | msgspec.UnsetType | None = msgspec.UNSET
    curve_secretkey: str | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def curve_keys(self) -> tuple[bytes, bytes] | None:
        """Public and secret key of the server, in Z85, where the channels are to be encrypted (CurveZMQ)."""
        if not self.curve_publickey or not self.curve_secretkey:
            return None
        return self.curve_publickey.encode(), self.curve_secretkey.encode()

    def address(self, channel: str) -> str:
        """Return the ZMQ address of `channel`; for a port of 0 one that asks for a free port."""
        port = getattr(self, f"{channel}_port")
        if self.transport == "ipc":
            return f"ipc://{self.ip}-{port}"
        return f"tcp://{self.ip}:{port or '*'}"


def read_connection(path: str) -> Connection:
    """Return what the connection file `path` says.

    Raises:
        ConnectionFileError: it is missing, unreadable, not JSON, or lacks what is needed.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise ConnectionFileError(
            path, "there is no such file; give -f the path that the Jupyter client wrote"
        ) from None
    except OSError as exc:
        raise ConnectionFileError(path, f"it cannot be read: {exc.strerror}") from exc
    try:
        connection = msgspec.json.decode(data, type=Connection)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ConnectionFileError(path, f"it is not a connection file: {exc}") from exc
    if connection.transport not in ("tcp", "ipc"):
        raise ConnectionFileError(path, f"transport is {connection.transport!r}: expected 'tcp' or 'ipc'")
    if bool(connection.curve_publickey) != bool(connection.curve_secretkey):
        raise ConnectionFileError(path, "curve_publickey and curve_secretkey belong together; one of them is missing")
    from capsule_kernel.wire.jupyter import digest_of  # after the zygote was forked: it imports OpenSSL

    try:
        digest_of(connection.signature_scheme)
    except ConfigurationError as exc:
        raise ConnectionFileError(path, str(exc)) from exc
    return connection


def find_connection_file(name: str) -> str:
    """Return the path of the connection file `name`: a path, or the name of a file in the runtime folder."""
    if os.path.exists(name) or os.path.dirname(name):
        return os.path.abspath(name)
    return os.path.join(runtime_folder(), name)


def runtime_folder() -> str:
    """Return Jupyter's runtime folder (jupyter_core, `jupyter_runtime_dir`)."""
    given = os.environ.get("JUPYTER_RUNTIME_DIR")
    if given:
        return given
    data = os.environ.get("JUPYTER_DATA_DIR") or os.path.join(
        os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"),
        "jupyter",
    )
    return os.path.join(data, "runtime")


def new_connection(launch: Launch, session: str) -> tuple[str, Connection]:
    """Return path and content of a connection file for a kernel that was started by hand."""
    transport = launch.transport or "tcp"
    folder = runtime_folder()
    path = os.path.join(folder, f"kernel-{os.getpid()}.json")
    ip = launch.ip or ("127.0.0.1" if transport == "tcp" else os.path.join(folder, f"kernel-{session[:8]}-ipc"))
    ports = {f"{channel}_port": getattr(launch, f"{channel}_port") for channel in CHANNELS}
    if transport == "ipc":
        ports = {name: port or number for number, (name, port) in enumerate(ports.items(), start=1)}
    key = "" if launch.no_secure else str(uuid.uuid4())
    return path, Connection(transport=transport, ip=ip, key=key, kernel_name="capsule", **ports)


def write_connection(path: str, connection: Connection) -> None:
    """Write `connection` to `path`, readable by the user only: who reads it can run code.

    Raises:
        ConnectionFileError: the file or its folder cannot be written.
    """
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            # It may have existed, readable by others.
            os.fchmod(file.fileno(), 0o600)
            file.truncate()
            file.write(msgspec.json.format(msgspec.json.encode(connection), indent=2) + b"\n")
    except OSError as exc:
        raise ConnectionFileError(path, f"it cannot be written: {exc.strerror}") from exc
