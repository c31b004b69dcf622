"""What the zygote does once so that no worker has to: imports, the shell, and code paths that are slow at first use."""

from __future__ import annotations

import codecs
import gc
import importlib
import sys

from IPython.extensions import storemagic

from capsule_kernel.postponed import catch_up
from capsule_kernel.wire.worker_messages import ZygoteOptions
from capsule_kernel.worker import comms, loop, output, parents, root, tracebacks
from capsule_kernel.worker.app import IPKernelApp


def prepare(options: ZygoteOptions) -> tuple[IPKernelApp, list[str]]:
    """Return the configured application and one line for each module that could not be preloaded."""
    gc.disable()
    _ = root, storemagic
    catch_up("asyncio")  # user code finds it as everywhere
    # What is read from /proc is ASCII. In a worker its codec would be imported through hooks that user code has set.
    codecs.lookup("ascii")
    loop.teach_asyncio()
    parents.pin_threads()
    sys.stdout = output.STDOUT
    sys.stderr = output.STDERR
    # The one that `traitlets.config.Application.instance()` gives.
    app = IPKernelApp.instance()
    app.configure(options.ipython_args)
    comms.install(app.shell)
    app.shell.own_modules = frozenset(sys.modules)
    failures: list[str] = []
    for name in options.preload:
        try:
            importlib.import_module(name)
        except Exception as exc:  # noqa: BLE001 - a module of the user's choice; the worker starts without it
            failures.append(f"cannot preload {name!r}: {type(exc).__name__}: {exc}")
    app.prepare_workers()
    tracebacks.prepare()
    # A collection in a fork would copy every page that holds a collectable object.
    gc.freeze()
    gc.enable()
    return app, failures
