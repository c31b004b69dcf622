"""The kernel's start: arguments, what front and zygote both need, the fork of the zygote, and only then the rest.

After the fork both processes import at the same time, and what they had imported before is in memory once. The zygote
is forked before the connection file is read: it and its workers never see the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from capsule_kernel import ids
from capsule_kernel.errors import CapsuleError
from capsule_kernel.front.connection import (
    find_connection_file,
    new_connection,
    read_connection,
    write_connection,
)
from capsule_kernel.sessions.process import SpawnedZygote, fork_zygote
from capsule_kernel.settings import Launch, load_launch
from capsule_kernel.stack import roomy
from capsule_kernel.wire.worker_messages import ZygoteOptions

if TYPE_CHECKING:
    from capsule_kernel.front.kernel import Kernel

_FAILURE = 1


def main(argv: Sequence[str]) -> int:
    """Run a kernel until it ends; return the exit status. `argv` is without the program's name."""
    if sys.platform != "linux":
        sys.stderr.write(f"capsule: this platform is {sys.platform!r}; the kernel needs Linux (fork, pidfd) for now\n")
        return _FAILURE
    try:
        launch = load_launch(argv, os.environ)
        zygote_options = ZygoteOptions(preload=list(launch.settings.preload), ipython_args=list(launch.ipython_args))
        # Imports make hardly any garbage, and a collection would touch all that they made.
        gc.disable()
        spawned = fork_zygote(_enter_zygote, zygote_options)
        try:
            return _run(launch, zygote_options, spawned)
        finally:
            _end_zygote(spawned)
    except CapsuleError as exc:
        sys.stderr.write(f"capsule: {exc}\n")
        return _FAILURE


@roomy
def _run(launch: Launch, zygote_options: ZygoteOptions, spawned: SpawnedZygote) -> int:
    session = ids.new_session()
    if launch.connection_file:
        path = find_connection_file(launch.connection_file)
        connection = read_connection(path)
        is_ours = False
    else:
        path, connection = new_connection(launch, session)
        is_ours = True

    from capsule_kernel.clock import Clock  # after the zygote was forked
    from capsule_kernel.front.kernel import Kernel
    from capsule_kernel.wire.jupyter import Wire

    logging.basicConfig(level=launch.settings.log_level, format="[Capsule] %(levelname)s %(message)s")
    loop = asyncio.new_event_loop()
    wire = Wire(
        key=connection.key.encode(),
        signature_scheme=connection.signature_scheme,
        session=session,
        username=ids.username(),
    )
    kernel = Kernel(
        launch=launch,
        connection=connection,
        connection_file=path,
        wire=wire,
        clock=Clock(),
        zygote_options=zygote_options,
        loop=loop,
    )
    bound = kernel.bind()
    gc.freeze()
    gc.enable()

    def announce() -> None:
        if is_ours or bound != connection:
            write_connection(path, bound)
        if is_ours:
            sys.stdout.write(
                f"To connect another client to this kernel, use:\n    --existing {os.path.basename(path)}\n"
            )
            sys.stdout.flush()

    try:
        return loop.run_until_complete(_serve(kernel, spawned, announce))
    finally:
        if is_ours:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        sys.stdout.flush()
        sys.stderr.flush()


async def _serve(kernel: Kernel, spawned: SpawnedZygote, announce: Callable[[], None]) -> int:
    kernel.start(spawned)
    # Signals are handled from here on: whoever reads the announcement may end the kernel, which removes the file.
    announce()
    return await kernel.run()


def _enter_zygote(control_fd: int, options_json: str) -> None:
    # In the child only: the front never imports IPython.
    from capsule_kernel.worker.zygote import main as zygote_main

    zygote_main(control_fd, options_json)


def _end_zygote(spawned: SpawnedZygote) -> None:
    """End a zygote that no pool took over."""
    spawned.control.close()
