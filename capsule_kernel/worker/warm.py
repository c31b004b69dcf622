"""What the zygote does once so that no worker has to: imports, the shell, and code paths that are slow at first use."""

from __future__ import annotations

import gc
import importlib
import sys

from IPython.extensions import storemagic

from capsule_kernel.wire.worker_messages import ZygoteOptions
from capsule_kernel.worker import comms, loop, output, parents, root
from capsule_kernel.worker.app import IPKernelApp


def prepare(options: ZygoteOptions) -> tuple[IPKernelApp, list[str]]:
    """Return the configured application and one line for each module that could not be preloaded."""
    gc.disable()
    _ = root, storemagic
    loop.teach_asyncio()
    parents.pin_threads()
    sys.stdout = output.STDOUT
    sys.stderr = output.STDERR
    app = IPKernelApp()
    app.configure(options.ipython_args)
    comms.install(app.shell)
    failures: list[str] = []
    for name in options.preload:
        try:
            importlib.import_module(name)
        except Exception as exc:  # noqa: BLE001 - a module of the user's choice; the worker starts without it
            failures.append(f"cannot preload {name!r}: {type(exc).__name__}: {exc}")
    app.prepare_workers()
    _format_a_traceback(app)
    # A collection in a fork would copy every page that holds a collectable object.
    gc.freeze()
    gc.enable()
    return app, failures


def _format_a_traceback(app: IPKernelApp) -> None:
    """Format one traceback as IPython does: the first one imports and builds what takes a tenth of a second.

    The front's client needs longer than this to send its first cell, so nobody waits for it.
    """
    shell = app.shell
    source = "def warm(value):\n    return value / 0\nwarm(1)\n"
    name = shell.compile.cache(source, 0, raw_code=source)
    try:
        exec(compile(source, name, "exec"), {})  # noqa: S102 - our own three lines
    except ZeroDivisionError as exc:
        shell.InteractiveTB.structured_traceback(type(exc), exc, exc.__traceback__, tb_offset=1)
    shell.compile.forget(name)
