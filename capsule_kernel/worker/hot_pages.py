"""The pages that every cell writes to, made the worker's own again after a fork, in idle moments.

A fork shares all memory with its child until one of them writes. The next cell would stop some 400 times to have a page
copied, which takes as long as two small cells. Which pages these are is learned from what was copied since an earlier
fork; they hardly change: the interpreter's and the kernel's own. Where the system has no such call, nothing happens.

Sources: proc_pid_pagemap(5), madvise(2) (`MADV_POPULATE_WRITE`, Linux 5.14).
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterator

_MADV_POPULATE_WRITE = 23
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ENTRY_BYTES = 8
_OWN = 0x81
"""The highest byte of a page's entry: it is in memory, and in no other process's."""

_AT_ONCE = 100
_PAGES_MAX = 1024
"""More is what a single cell has worked on, or nothing is shared at all."""

_LOOKED_AT_MAX = (64 << 20) // _PAGE
_LEARN_EVERY = 16

type Range = tuple[int, int, str]
"""Address and length, in bytes, and what is mapped there: device and inode, as the system writes them."""


class HotPages:
    """Learns them, and touches them.

    Args:
        madvise: madvise(2): address, length and advice to 0, or -1 for an error.
    """

    def __init__(self, madvise: Callable[[int, int, int], int]) -> None:
        self._madvise = madvise
        self._forks = 0
        self._areas: list[Range] = []
        self._known: list[Range] = []
        self._waiting: list[Range] = []
        self._is_checked = True

    @property
    def is_waiting(self) -> bool:
        """Whether there are pages to touch."""
        return bool(self._waiting)

    def learn_when_due(self) -> None:
        """Before a fork: look, from time to time, at what was copied since the last one."""
        if self._forks == 0:
            # What comes later is the user's, and may be gone the next time.
            self._areas = list(_areas())
        elif self._forks <= 2 or self._forks % _LEARN_EVERY == 0:
            own = list(_own_pages(self._areas))
            if sum(length for _, length, _ in own) <= _PAGES_MAX * _PAGE:
                self._known = own
        self._forks += 1

    def begin(self) -> None:
        """After a fork: have the pages touched by the next calls of `touch`."""
        self._waiting = self._known[::-1]
        self._is_checked = False

    def touch(self) -> None:
        """Touch some of them; content does not change."""
        if not self._is_checked:
            # Something else may be mapped there by now: a file, whose size on the disk and whose copies would change.
            self._is_checked = True
            self._waiting = list(_still_there(self._waiting, list(_areas())))
            return
        left = _AT_ONCE
        while self._waiting and left > 0:
            address, length, _ = self._waiting.pop()
            left -= length // _PAGE
            # Where the system has no such call it is an error, and no loss.
            self._madvise(address, length, _MADV_POPULATE_WRITE)


def _areas() -> Iterator[Range]:
    """Yield the memory that only this process writes to, as it is now, up to a bound, by address."""
    left = _LOOKED_AT_MAX
    try:
        with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
            lines = file.readlines()
    except OSError:
        return
    for line in lines:
        addresses, flags, _, device, inode = line.split(maxsplit=5)[:5]
        if flags != "rw-p":
            continue
        start, end = (int(part, 16) for part in addresses.split("-"))
        pages = min((end - start) // _PAGE, left)
        if pages:
            yield start, pages * _PAGE, f"{device} {inode}"
        left -= pages


def _still_there(ranges: list[Range], areas: list[Range]) -> Iterator[Range]:
    """Yield those of `ranges` that lie in one of `areas` of the same kind."""
    starts = [start for start, _, _ in areas]
    for address, length, what in ranges:
        at = bisect.bisect_right(starts, address) - 1
        if at >= 0:
            start, size, found = areas[at]
            if found == what and address + length <= start + size:
                yield address, length, what


def _own_pages(areas: list[Range]) -> Iterator[Range]:
    """Yield the pages of `areas` that no other process shares, neighbours together."""
    try:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for start, length, what in areas:
            try:
                entries = os.pread(pagemap, length // _PAGE * _ENTRY_BYTES, start // _PAGE * _ENTRY_BYTES)
            except OSError:
                continue
            marks = entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]
            begin = marks.find(_OWN)
            while begin >= 0:
                end = begin
                while end < len(marks) and marks[end] == _OWN:
                    end += 1
                yield start + begin * _PAGE, (end - begin) * _PAGE, what
                begin = marks.find(_OWN, end)
    finally:
        os.close(pagemap)
