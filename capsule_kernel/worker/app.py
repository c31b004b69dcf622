"""IPython's configuration as users of ipykernel have it.

That is: profiles, `ipython_config.py`, `ipython_kernel_config.py`, start-up files, extensions, `exec_lines`, and
arguments such as `--InteractiveShell.xmode=Plain`. The class bears ipykernel's name, since configuration files name it.
"""

from __future__ import annotations

import os
import sys
from copy import deepcopy
from typing import Any

from IPython.core.application import (
    ENV_CONFIG_DIRS,
    SYSTEM_CONFIG_DIRS,
    BaseIPythonApplication,
    base_aliases,
    base_flags,
)
from IPython.core.profiledir import ProfileDir
from IPython.core.shellapp import InteractiveShellApp, shell_aliases, shell_flags
from traitlets import Unicode

from capsule_kernel.worker import pending
from capsule_kernel.worker.history import WorkerHistory
from capsule_kernel.worker.shell import ZMQInteractiveShell


class IPKernelApp(BaseIPythonApplication, InteractiveShellApp):
    """Loads the configuration once in the zygote, and applies it to each worker."""

    name = "ipython-kernel"
    aliases = {**base_aliases, **shell_aliases}
    flags = {**base_flags, **shell_flags}
    classes = [ZMQInteractiveShell, ProfileDir, WorkerHistory]  # type: ignore[assignment]  # IPython's has one kind
    shell: ZMQInteractiveShell
    _has_extensions = True
    connection_file = Unicode("", help="The connection file of the kernel.").tag(config=True)
    kernel: Any = None

    @property  # type: ignore[misc]  # typeshed has a setter
    def __class__(self) -> type:
        """The class of ipykernel's application where somebody has imported that: its `instance()` asks `isinstance`."""
        real = getattr(sys.modules.get("ipykernel.kernelapp"), "IPKernelApp", None)
        return type(self) if real is None else real

    @property
    def abs_connection_file(self) -> str:
        """Path of the connection file."""
        return os.path.abspath(self.connection_file)

    @property
    def connection_dir(self) -> str:
        """Folder of the connection file."""
        return os.path.dirname(self.abs_connection_file)

    def configure(self, arguments: list[str]) -> None:
        """Read the configuration and make the shell; `arguments` are the command line's foreign ones."""
        if arguments:
            self.parse_command_line(arguments)
        from_command_line = deepcopy(self.config)
        self.init_profile_dir()
        self.init_config_files()
        self.load_config_file()
        self.update_config(from_command_line)
        # Libraries look for this section to learn that they run in a kernel.
        config = deepcopy(self.config)
        config.IPKernelApp.connection_file = config.IPKernelApp.get("connection_file", "")
        self.update_config(config)
        self.shell = ZMQInteractiveShell.instance(parent=self, profile_dir=self.profile_dir)
        self.shell.configurables.append(self)

    def prepare_workers(self) -> None:
        """Do in the zygote what is the same for all workers and runs no code of the user's."""
        if not self.extensions and not self.extra_extensions:
            self.init_extensions()
            self._has_extensions = False
        pending.announce()
        self.shell.hide_what_is_there()

    def apply(self) -> None:
        """Make a new worker the user's own: `sys.path`, matplotlib, extensions, start-up files.

        What is not configured is left out rather than found empty: each page that a worker touches is copied.
        """
        self.init_path()
        if self.gui or self.matplotlib or self.pylab:
            self.init_gui_pylab()
        if self._has_extensions:
            self.init_extensions()
        if self._has_code():
            self.init_code()

    def _has_code(self) -> bool:
        """Return whether there is anything that `init_code` would run."""
        if self.exec_lines or self.exec_files or self.code_to_run or self.file_to_run or self.module_to_run:
            return True
        if self.exec_PYTHONSTARTUP and os.environ.get("PYTHONSTARTUP"):
            return True
        assert self.profile_dir is not None
        profile = self.profile_dir.startup_dir
        folders = [profile, *(os.path.join(path, "startup") for path in (*ENV_CONFIG_DIRS, *SYSTEM_CONFIG_DIRS))]
        return any(name.endswith((".py", ".ipy")) for folder in folders for name in _names_in(folder))

    def init_crash_handler(self) -> None:
        """Leave `sys.excepthook` alone."""

    def init_path(self) -> None:
        """Put the notebook's folder behind the standard library, as IPython does unless Python was started with -P.

        The kernel is started so for its own sake: files beside the notebook must not take the place of its modules.
        """
        if "" in sys.path or self.ignore_cwd or os.environ.get("PYTHONSAFEPATH"):
            return
        folders = (os.path.basename(path) for path in sys.path)
        index = next((index for index, name in enumerate(folders) if name in _PACKAGES), 0)
        sys.path.insert(index, "")


_PACKAGES = ("site-packages", "dist-packages")


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
