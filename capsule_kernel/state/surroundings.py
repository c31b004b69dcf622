"""What a snapshot does not carry: child processes, the content of files, memory shared with others, locks of files.

It is noted at the fork, and looked at again when the snapshot becomes the worker: what has changed meanwhile is named,
what can be put right (locks, `Popen` objects that would report success) is.
"""

from __future__ import annotations

import fcntl
import gc
import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import msgspec

from capsule_kernel.state import file_locks, process_locks
from capsule_kernel.state.file_locks import FileLock

_NAMED = 5
_COMMAND_LENGTH = 60
_SHARED = re.compile(r"^\S+ rw-s \S+ \S+ \S+ *(.*)$", re.MULTILINE)
"""The name in a line of /proc/self/maps, proc_pid_maps(5)."""
_OF_DATABASES = "-shm"
_OF_SEMAPHORES = "/dev/shm/sem."  # noqa: S108 - where they are (sem_overview(7))


class Written(msgspec.Struct, frozen=True):
    """A file that is open for writing, as it was at the fork."""

    path: str
    size: int
    changed_ns: int


class Holdings(msgspec.Struct, frozen=True):
    """What a snapshot holds that others can change while it sleeps."""

    files: list[Written]
    shared: list[str]
    """Memory that is shared with files or other processes, by name."""


class Surroundings(msgspec.Struct, frozen=True):
    """What stood around the worker when it was forked."""

    locks: list[FileLock]
    children: dict[int, str]
    """Pids and commands."""

    def notes_on_waking(self, holdings: Holdings) -> list[str]:
        """Put right what can be, in the process that is the worker now; return one sentence for each thing that is not.

        Args:
            holdings: what `look_at_holdings` returned after the fork.
        """
        file_locks.take_again(self.locks)
        notes = []
        if not self.children:
            process_locks.put_back()
        else:
            self._end_popen_objects()
            notes.append(f"child processes were not carried over: {_listed(list(self.children.values()))}")
        changed = [file.path for file in holdings.files if _has_changed(file)]
        if changed:
            notes.append(f"files were written to since, and keep that: {_listed(changed)}")
        if holdings.shared:
            shared = _listed(holdings.shared)
            notes.append(f"memory that is shared with files or other processes is not gone back: {shared}")
        return notes

    def _end_popen_objects(self) -> None:
        """Have `Popen.poll` say that a child was killed: it is not this process's, for which it would say success."""
        for each in gc.get_objects():
            # By the type first: `isinstance` would ask proxies and lazy modules.
            is_popen = issubclass(type(each), subprocess.Popen)
            if is_popen and each.returncode is None and each.pid in self.children:
                each.returncode = -signal.SIGKILL


def look_around() -> Surroundings:
    """Return what stands around this process now, which is going to be forked."""
    return Surroundings(file_locks.held_locks(), {pid: _command(pid) for pid in _children()})


def look_at_holdings() -> Holdings:
    """Return what this process holds, which is going to sleep: somebody waits when it wakes."""
    return Holdings(_open_files(), _shared_mappings())


def _open_files() -> list[Written]:
    """Return the regular files that this process has open for writing."""
    found = []
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            status = os.fstat(int(entry.name))
            if not stat.S_ISREG(status.st_mode) or not _is_writable(int(entry.name)):
                continue
            path = str(entry.readlink())
        except OSError:
            # The listing's own, which is closed by now.
            continue
        if not path.startswith("/memfd:"):
            found.append(Written(path, status.st_size, status.st_mtime_ns))
    return found


def _is_writable(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _has_changed(file: Written) -> bool:
    try:
        status = Path(file.path).stat()
    except OSError:
        # It is gone, or never had a name.
        return not file.path.endswith(" (deleted)")
    return (status.st_size, status.st_mtime_ns) != (file.size, file.changed_ns)


def _children() -> list[int]:
    try:
        words = file_locks.read_proc(f"/proc/self/task/{os.getpid()}/children").split()
    except OSError:
        return []
    return [int(word) for word in words]


def _command(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        command = ""
    return f"{command[:_COMMAND_LENGTH] or 'a process'} ({pid})"


def _shared_mappings() -> list[str]:
    text = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    paths = [path or "without a name" for path in _SHARED.findall(text)]
    return [
        path for path in dict.fromkeys(paths) if not (path.endswith(_OF_DATABASES) or path.startswith(_OF_SEMAPHORES))
    ]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
