"""Checkpoints as people read them: when, after which cell, what changed, how large, what is live only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from capsule_kernel.errors import StateError
from capsule_kernel.state.exchange import Line, Listing
from capsule_kernel.state.manifest import Captured, Manifest

if TYPE_CHECKING:
    from capsule_kernel.state.store import Listed, Store

_CHANGES_SHOWN = 4
_UNITS = ("B", "KB", "MB", "GB", "TB")
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
HEAD = ("id", "name", "taken", "after cell", "changed", "added", "verified", "live only")


def size(count: int) -> str:
    """Return a number of bytes in words: `3.4 MB`."""
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def ago(milliseconds: int) -> str:
    """Return how long ago something was, in words: `5 min ago`."""
    seconds = max(0, milliseconds // 1000)
    for unit, name in _AGES:
        if seconds >= unit:
            return f"{seconds // unit} {name} ago"
    return "just now"


def live_only(captured: Captured) -> dict[str, str]:
    """Return the names that a checkpoint does not hold, with the reason."""
    return {name: entry.reason for name, entry in captured.names.items() if entry.value is None}


def doubts(captured: Captured) -> dict[str, str]:
    """Return the names that a checkpoint holds and a fresh process made differ, with where."""
    return {
        name: f"saved, but a fresh process makes it differ: {entry.doubt}"
        for name, entry in captured.names.items()
        if entry.doubt
    }


def line_of(store: Store, item: Listed) -> Line:
    """Return a checkpoint as a line of a listing; one that cannot be read says why."""
    common: dict[str, Any] = {
        "checkpoint": item.id,
        "created_ms": item.created_ms,
        "after_cell": item.after_cell,
        "label": item.label,
        "added_bytes": item.added_bytes,
    }
    try:
        manifest = store.manifest(item.id)
    except StateError as exc:
        return Line(**common, changes=[], live_only={}, problem=str(exc))
    captured = manifest.captured
    statuses = [entry.status for name, entry in captured.names.items() if entry.value and not name.startswith("_")]
    return Line(
        **common,
        changes=manifest.changes,
        live_only=live_only(captured),
        saved=len(statuses),
        verified=statuses.count("saved and verified"),
        doubts=doubts(captured),
    )


def shown_changes(changes: Sequence[str], limit: int = _CHANGES_SHOWN) -> str:
    """Return the first changes of a checkpoint, in one line; histories of the prompt are left out."""
    own = [change for change in changes if not change.startswith("_")]
    rest = f", {len(own) - limit} more" if len(own) > limit else ""
    return ", ".join(own[:limit]) + rest or "nothing"


def row(line: Line, now_ms: int) -> tuple[str, ...]:
    """Return a checkpoint as the cells of a table with the columns of `HEAD`."""
    if line.problem:
        return (
            str(line.checkpoint),
            line.label,
            ago(now_ms - line.created_ms),
            str(line.after_cell),
            "?",
            "?",
            "?",
            line.problem,
        )
    missing = {**line.live_only, **line.doubts}
    lost = ", ".join(f"{name} ({reason})" for name, reason in list(missing.items())[:_CHANGES_SHOWN])
    more = len(missing) - _CHANGES_SHOWN
    return (
        str(line.checkpoint),
        line.label,
        ago(now_ms - line.created_ms),
        str(line.after_cell),
        shown_changes(line.changes),
        size(line.added_bytes),
        f"{line.verified} of {line.saved}" if line.verified else "",
        lost + (f", {more} more" if more > 0 else ""),
    )


def as_text(listing: Listing) -> str:
    """Return a listing as a table in plain text."""
    if not listing.lines:
        return f"no checkpoints of {listing.session} in {listing.folder}"
    rows = [HEAD, *(row(line, listing.now_ms) for line in reversed(listing.lines))]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows]
    return "\n".join([*lines, _foot(listing)])


def as_html(listing: Listing) -> str:
    """Return a listing as a table in HTML."""
    if not listing.lines:
        return f"<p>{escape(as_text(listing))}</p>"
    head = "".join(f'<th style="text-align:left">{escape(cell)}</th>' for cell in HEAD)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row(line, listing.now_ms))
        + "</tr>"
        for line in reversed(listing.lines)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{escape(_foot(listing))}</p>"


def as_detail(number: int, manifest: Manifest) -> str:
    """Return what every name of a checkpoint is, a line a name."""
    about = manifest.about
    taken = datetime.fromtimestamp(about.created_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
    label = f" {about.label!r}" if about.label else ""
    lines = [f"checkpoint {number}{label} of {about.session}, after cell [{about.after_cell}], {taken}"]
    for name, entry in manifest.captured.names.items():
        what = f"{entry.kind} {entry.shape}".strip()
        told = entry.reason or (f"a fresh process makes it differ: {entry.doubt}" if entry.doubt else entry.note)
        reason = f" ({told})" if told else ""
        lines.append(f"{name}: {what}, {entry.status}{reason}, {size(entry.size_bytes)}")
    lines += [f"left as it is: {item}" for item in about.not_rolled_back]
    return "\n".join(lines)


def _foot(listing: Listing) -> str:
    return f"{listing.session}: {size(listing.size_bytes)} of {size(listing.cap_bytes)} used in {listing.folder}"
