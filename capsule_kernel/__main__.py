"""The kernel's entry: `python -m capsule_kernel -f CONNECTION_FILE`."""

import os
import sys

from capsule_kernel.postponed import postponed

with postponed("ssl", "asyncio.sslproto"):
    import asyncio  # noqa: F401 - before anybody else does

from capsule_kernel.front.main import main

status = main(sys.argv[1:])
sys.stdout.flush()
sys.stderr.flush()
# All is closed; taking the interpreter apart would only keep a client waiting that restarts the kernel.
os._exit(status)
