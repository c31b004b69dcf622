"""Native libraries of this process that a fork has to know of: OpenMP runtimes, which are paused, and CUDA's driver.

Sources: dl_iterate_phdr(3), whose count of loaded objects tells when to look again; OpenMP 5.0,
`omp_pause_resource_all`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_OMP_PAUSE_HARD = 2
_OPENMP = ("libgomp", "libomp", "libiomp")
_CUDA = "libcuda.so"
_CUDA_DEVICES = "/dev/nvidia"


class _Object(ctypes.Structure):
    """`struct dl_phdr_info`."""

    _fields_ = [
        ("address", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("headers", ctypes.c_void_p),
        ("header_count", ctypes.c_ushort),
        ("loads", ctypes.c_ulonglong),
        ("unloads", ctypes.c_ulonglong),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Object), ctypes.c_size_t, ctypes.c_void_p)


class Libraries:
    """The libraries that count, as of the last look."""

    def __init__(self) -> None:
        self._loads = -1
        self._openmp: dict[str, ctypes.CDLL] = {}
        self._has_cuda = False

    def look(self) -> None:
        """Find what was loaded since the last look."""
        loads = _loads()
        if loads == self._loads:
            return
        self._loads = loads
        paths = _paths()
        self._has_cuda = any(Path(path).name.startswith(_CUDA) for path in paths)
        for path in paths:
            if path not in self._openmp and Path(path).name.startswith(_OPENMP):
                self._openmp[path] = ctypes.CDLL(path)

    def uses_cuda(self) -> bool:
        """Return whether CUDA is initialised: its driver is loaded, and has a device open."""
        return self._has_cuda and any(target.startswith(_CUDA_DEVICES) for target in _open_files())

    def pause_openmp(self) -> None:
        """Have each OpenMP runtime give up its threads: in a fork's child they would be waited for, for ever."""
        for library in self._openmp.values():
            pause = getattr(library, "omp_pause_resource_all", None)
            if pause is not None:
                pause(_OMP_PAUSE_HARD)


_libc = ctypes.CDLL(None)
_loads_seen = [0]


def _see_loads(each: ctypes._Pointer[_Object], _size: int, _data: object) -> int:
    _loads_seen[0] = each.contents.loads
    return 1


_note_loads = _Callback(_see_loads)


def _loads() -> int:
    # On the way of every snapshot: the callback is made once.
    _libc.dl_iterate_phdr(_note_loads, None)
    return _loads_seen[0]


def _paths() -> set[str]:
    found: set[str] = set()

    def note(each: ctypes._Pointer[_Object], _size: int, _data: object) -> int:
        found.add(os.fsdecode(each.contents.name or b""))
        return 0

    _libc.dl_iterate_phdr(_Callback(note), None)
    return found


def _open_files() -> list[str]:
    found = []
    for entry in list(Path("/proc/self/fd").iterdir()):
        # The listing's own is closed by now.
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return found
