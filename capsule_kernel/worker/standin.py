"""Stands in for ipykernel's kernel where a library imports ipykernel: `ipykernel.comm.Comm` sends through this kernel.

Nothing of ipykernel is imported here. When user code imports it, `Kernel.instance()` is told to be this worker's
kernel, and what it does to `comm.create_comm` is undone. matplotlib's nbagg and widgets of before 2023 need that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, NoReturn

from capsule_kernel.worker import breakpoints, comms

_KERNEL = "ipykernel.kernelbase"
_APPLICATION = "ipykernel.kernelapp"
_IPYTHON_KERNEL = "ipykernel.ipkernel"


def kernel_class(default: type) -> type:
    """Return the class that the kernel pretends to be of: that of ipykernel which is loaded, else `default`."""
    for name, attribute in ((_IPYTHON_KERNEL, "IPythonKernel"), (_KERNEL, "Kernel")):
        found = getattr(sys.modules.get(name), attribute, None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    return default


def introduce(kernel: Any) -> None:
    """Make `kernel` the one that ipykernel's classes find, whether they are imported already or will be."""
    application = kernel.shell.parent
    application.kernel = kernel
    application.connection_file = kernel.connection_file

    def on_kernel(module: ModuleType) -> None:
        module.Kernel._instance = kernel  # noqa: SLF001 - where traitlets keeps what `Kernel.instance()` returns

    def on_application(module: ModuleType) -> None:
        module.IPKernelApp._instance = application  # noqa: SLF001 - as above

    callbacks: dict[str, Callable[[ModuleType], None]] = {
        _KERNEL: on_kernel,
        _IPYTHON_KERNEL: lambda _: comms.install(kernel.shell),
        _APPLICATION: on_application,
        "pdb": breakpoints.on_pdb,
        breakpoints.DEBUGGER: breakpoints.on_debugger,
    }
    for name, callback in callbacks.items():
        if name in sys.modules:
            callback(sys.modules[name])
    sys.meta_path.insert(0, _Watch(callbacks))
    breakpoints.install(kernel)


def refuse_input(*, password: bool) -> NoReturn:
    """Say that the client which runs this cell cannot be asked, with the error and the traceback that ipykernel has.

    Raises:
        StdinNotImplementedError: always.
    """
    from ipykernel.kernelbase import Kernel

    class Deaf:
        _allow_stdin = False

    if password:
        Kernel.getpass(Deaf())  # type: ignore[arg-type]  # all that it looks at before it raises
    Kernel.raw_input(Deaf())  # type: ignore[arg-type]
    raise AssertionError


class _Watch:
    """Finds nothing by itself; has a callback called when one of the modules has been imported."""

    def __init__(self, callbacks: dict[str, Callable[[ModuleType], None]]) -> None:
        self._callbacks = callbacks

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._callbacks:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        callback, original = self._callbacks[name], spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            original(module)
            callback(module)

        # On the loader itself, which serves this one module: whoever looks at the spec later sees the usual one.
        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class IOPubSession:
    """What libraries use of `get_ipython().kernel.session`: sending on iopub."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def send(
        self,
        stream: Any,
        msg_or_type: str | dict[str, Any],
        content: dict[str, Any] | None = None,
        parent: dict[str, Any] | None = None,
        ident: Any = None,
        buffers: Sequence[Any] | None = None,
        track: bool = False,
        header: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Publish a message; return it.

        Raises:
            ValueError: `stream` is another than `kernel.iopub_socket`: nothing else is reachable from a worker.
        """
        if stream is not self._shell.kernel.iopub_socket:
            raise ValueError(f"messages can be sent on kernel.iopub_socket only, not on {stream!r}")
        message: dict[str, Any] = msg_or_type if isinstance(msg_or_type, dict) else {"msg_type": msg_or_type}
        msg_type: str = message.get("msg_type") or message["header"]["msg_type"]
        content = content or dict(message.get("content", {}))
        metadata = metadata or dict(message.get("metadata", {}))
        serial = self._shell.serial_of(parent) if parent else None
        self._shell.outlet.publish(
            msg_type, content, metadata=metadata, buffers=buffers or message.get("buffers"), parent=serial or None
        )
        return {"header": {"msg_type": msg_type}, "msg_type": msg_type, "content": content, "metadata": metadata}
