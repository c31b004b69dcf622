"""The kernelspec: what Jupyter reads to list and start the kernel, and the places where it can be put.

The wheel already puts one into the environment's `share/jupyter/kernels/capsule`. This module is for the other places:
a user's folder, another prefix, the whole system, or a second name. It is not on the kernel's start path.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from jupyter_core.paths import SYSTEM_JUPYTER_PATH, jupyter_data_dir, jupyter_path

from capsule_kernel.errors import KernelSpecError

DEFAULT_NAME = "capsule"
DEFAULT_DISPLAY_NAME = "Python 3 (Capsule)"

KERNEL_COMMAND = ("-P", "-m", "capsule_kernel", "-f", "{connection_file}")
"""The interpreter's arguments. `-P` keeps the current folder, which is the notebook's, off the path while Capsule's own
modules are imported: a `random.py` beside a notebook cannot break the kernel's start."""

# "Kernel names can only contain ASCII letters and numbers and these separators: - . _" (jupyter_client, Kernel specs)
_NAME = re.compile(r"[a-z0-9._-]+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a kernelspec goes.

    Attributes:
        kind: `system` (all users), `user`, or `prefix` (an environment).
        prefix: the environment's folder, for `prefix` only.
    """

    kind: Literal["system", "user", "prefix"]
    prefix: str = ""

    @property
    def kernels(self) -> Path:
        """The folder that holds the kernelspecs there."""
        if self.kind == "user":
            return Path(jupyter_data_dir()) / "kernels"
        if self.kind == "prefix":
            return Path(self.prefix).expanduser().absolute() / "share" / "jupyter" / "kernels"
        return Path(SYSTEM_JUPYTER_PATH[0]) / "kernels"


def kernel_spec(
    display_name: str = DEFAULT_DISPLAY_NAME, executable: str = sys.executable, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The content of `kernel.json`. It advertises only what works.

    Args:
        display_name: what a front end shows.
        executable: absolute path of the interpreter that runs the kernel.
        env: environment variables that are set for the kernel.
    """
    spec: dict[str, Any] = {
        "argv": [executable, *KERNEL_COMMAND],
        "display_name": display_name,
        "language": "python",
        "interrupt_mode": "message",
        "kernel_protocol_version": "5.5",
        "metadata": {"debugger": True, "supported_encryption": ["curve"]},
    }
    return spec | {"env": dict(env)} if env else spec


def install(
    place: Place, *, name: str = DEFAULT_NAME, display_name: str = DEFAULT_DISPLAY_NAME, env: Mapping[str, str]
) -> Path:
    """Put a kernelspec for this interpreter in place; one of that name there before is replaced, or kept on failure.

    Returns:
        The kernelspec's folder.

    Raises:
        KernelSpecError: the name is not allowed, the folder cannot be written, or it holds another kernel's spec.
    """
    _check_name(name)
    target = place.kernels / name.lower()
    if target.is_dir() and not _is_ours(target):
        reason = "another kernel has this name; choose a different one with --name"
        raise KernelSpecError(name=name, folder=str(target), reason=reason)
    files = {path.name: path.read_bytes() for path in _resources(name).glob("logo-*")}
    files["kernel.json"] = (json.dumps(kernel_spec(display_name, env=env), indent=2) + "\n").encode()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The new folder is complete before it takes the old one's place.
        with tempfile.TemporaryDirectory(prefix=".capsule-", dir=target.parent) as scratch:
            fresh, old = Path(scratch, "new"), Path(scratch, "old")
            fresh.mkdir()
            for file, content in files.items():
                (fresh / file).write_bytes(content)
            if target.exists():
                target.rename(old)
            try:
                fresh.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
    except OSError as exc:
        raise KernelSpecError(name=name, folder=str(target), reason=_system_reason(exc)) from exc
    return target


def uninstall(place: Place | None, *, name: str = DEFAULT_NAME) -> Path:
    """Remove a kernelspec of ours; without a place it is looked for where Jupyter looks.

    Returns:
        The folder that was removed.

    Raises:
        KernelSpecError: there is none, it is not Capsule's, it is part of the installed package, or it resists.
    """
    _check_name(name)
    folders = [place.kernels] if place else [Path(folder) for folder in jupyter_path("kernels")]
    targets = [folder / name.lower() for folder in folders if (folder / name.lower() / "kernel.json").is_file()]
    if not targets:
        raise KernelSpecError(name=name, reason=f"not installed in {', '.join(map(str, folders))}")
    removable = [target for target in targets if _is_ours(target) and target.resolve() != _packaged()]
    if not removable:
        reason = "it is another kernel's; `jupyter kernelspec remove` removes any"
        if targets[0].resolve() == _packaged():
            reason = "it is part of the installed package; `pip uninstall capsule-kernel` removes both"
        raise KernelSpecError(name=name, folder=str(targets[0]), reason=reason)
    if len(removable) > 1:
        reason = f"installed in {' and in '.join(map(str, removable))}; say which with --user, --sys-prefix or --prefix"
        raise KernelSpecError(name=name, reason=reason)
    try:
        shutil.rmtree(removable[0])
    except OSError as exc:
        raise KernelSpecError(name=name, folder=str(removable[0]), reason=_system_reason(exc)) from exc
    return removable[0]


def is_listed(folder: Path) -> bool:
    """Whether the Jupyter of this environment looks into the folder that holds this kernelspec."""
    return str(folder.parent) in jupyter_path("kernels")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or set(name) == {"."}:
        raise KernelSpecError(name=name, reason="a name has ASCII letters, digits, '-', '.' and '_' only")


def _is_ours(folder: Path) -> bool:
    try:
        return "capsule_kernel" in json.loads((folder / "kernel.json").read_bytes())["argv"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _packaged() -> Path | None:
    """The kernelspec's folder that the installed package brought, by its list of files."""
    try:
        files = metadata.files("capsule-kernel") or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.parts[-3:] == ("kernels", DEFAULT_NAME, "kernel.json"):
            return Path(os.fspath(file.locate())).resolve().parent
    return None


def _resources(name: str) -> Path:
    """The folder with the logos: a checkout's, else the installed package's."""
    checkout = Path(__file__).parent.parent / "kernelspec"
    for folder in (checkout, _packaged()):
        if folder and (folder / "logo-svg.svg").is_file():
            return folder
    raise KernelSpecError(name=name, reason="the package's own kernelspec is missing; install capsule-kernel again")


def _system_reason(exc: OSError) -> str:
    if isinstance(exc, PermissionError):
        return "no permission to write there; use --user for yourself, or --sys-prefix for this environment"
    return exc.strerror or str(exc)
