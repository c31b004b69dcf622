"""`%checkpoint`, `%restore` and `%checkpoints`: saved state by name, for people."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.display import display

from capsule_kernel.errors import StateError

if TYPE_CHECKING:
    from capsule_kernel.state.exchange import Found, Listing, Verdict
    from capsule_kernel.state.manifest import Entry
    from capsule_kernel.state.restore import Restored
    from capsule_kernel.worker.saving import Saving
    from capsule_kernel.worker.shell import ZMQInteractiveShell

_NAMED_MAX = 10


@magics_class
class CheckpointMagics(Magics):
    """Checkpoints of the namespace, on the disk."""

    shell: ZMQInteractiveShell

    @line_magic
    def checkpoint(self, line: str) -> None:
        """Save all variables to the disk, under a name or none: `%checkpoint`, `%checkpoint before-cleaning`.

        Only what changed since the last checkpoint is written. What cannot be saved is named with the reason.
        """
        words = _words(line)
        if len(words) > 1 or any(word.startswith("-") for word in words):
            raise UsageError(f"%checkpoint takes one name at most, got {line!r}")
        label = words[0] if words else ""
        if label.isdigit():
            raise UsageError(f"%checkpoint takes a name that is no number (a number means a checkpoint), got {label!r}")
        try:
            verdict = self._saving.save(label)
        except StateError as exc:
            raise UsageError(f"no checkpoint was taken: {exc}") from exc
        self._report("checkpoint", verdict, verdict.manifest.captured.names)
        sys.stdout.write(_saved_text(verdict))

    @line_magic
    def restore(self, line: str) -> None:
        """Bring back the variables of a checkpoint: `%restore`, `%restore NAME`, `%restore NUMBER`, `--merge`.

        Without a name it is the newest of this notebook. Variables that the checkpoint has not are removed; with
        `--merge` they stay. Nothing is executed again.
        """
        words = _words(line)
        merge = "--merge" in words
        rest = [word for word in words if word != "--merge"]
        if len(rest) > 1 or any(word.startswith("-") for word in rest):
            raise UsageError(f"%restore takes a name or a number, and --merge; got {line!r}")
        try:
            found, restored = self._saving.restore(rest[0] if rest else "", "merge" if merge else "exact")
        except StateError as exc:
            hint = "; %checkpoints lists what there is" if rest else ""
            raise UsageError(f"nothing was restored: {exc}{hint}") from exc
        self._report("restore", found, restored.names)
        sys.stdout.write(_restored_text(found, restored))

    @line_magic
    def checkpoints(self, line: str) -> None:
        """List the checkpoints of this notebook: `%checkpoints`; `%checkpoints --delete NAME|NUMBER` deletes one."""
        words = _words(line)
        try:
            if words[:1] == ["--delete"] and len(words) == 2:
                found = self._saving.delete(words[1])
            elif words:
                raise UsageError(f"%checkpoints takes --delete NAME|NUMBER or nothing, got {line!r}")
            else:
                found = self._saving.listing()
        except StateError as exc:
            raise UsageError(str(exc)) from exc
        display(_Table(found))

    @property
    def _saving(self) -> Saving:
        if self.shell.kernel.checkpoints is None:
            raise UsageError("the kernel has not started yet: there is nothing to save or restore")
        saving: Saving = self.shell.kernel.checkpoints.saving
        return saving

    def _report(self, what: str, about: Verdict | Found, names: dict[str, Entry]) -> None:
        """Have the reply's metadata say what is so of every name."""
        self.shell.kernel.report[what] = {
            "checkpoint": about.checkpoint,
            "after_cell": about.manifest.about.after_cell,
            "names": {
                name: {
                    "status": entry.status,
                    **({"reason": entry.reason} if entry.reason else {}),
                    **({"doubt": entry.doubt} if entry.doubt else {}),
                }
                for name, entry in names.items()
            },
            "not_rolled_back": about.manifest.about.not_rolled_back,
        }


class _Table:
    """A listing that a front end shows as a table."""

    def __init__(self, found: Listing) -> None:
        self._found = found

    def __repr__(self) -> str:
        from capsule_kernel.state import listing

        return listing.as_text(self._found)

    def _repr_html_(self) -> str:
        from capsule_kernel.state import listing

        return listing.as_html(self._found)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as exc:
        raise UsageError(f"{line!r} cannot be read: {exc}") from exc


def _saved_text(verdict: Verdict) -> str:
    from capsule_kernel.state import listing

    captured = verdict.manifest.captured
    missing = listing.live_only(captured)
    label = f" {verdict.manifest.about.label!r}" if verdict.manifest.about.label else ""
    saved = [name for name in captured.names if name not in missing]
    text = (
        f"checkpoint {verdict.checkpoint}{label}: {_names(saved)} saved, "
        f"{listing.size(verdict.manifest.added_bytes)} added\n"
    )
    return text + _reasons("live only", missing)


def _restored_text(found: Found, restored: Restored) -> str:
    about = found.manifest.about
    lost = {name: entry.reason for name, entry in restored.names.items() if entry.status == "lost"}
    back = [name for name in restored.names if name not in lost]
    name = f" {about.label!r}" if about.label else ""
    text = f"checkpoint {found.checkpoint}{name}, after cell [{about.after_cell}]: {_names(back)} restored\n"
    if restored.removed:
        text += f"removed: {_some(restored.removed)}\n"
    text += _reasons("lost", lost)
    text += _reasons(
        "restored, but not as it was", {name: entry.doubt for name, entry in restored.names.items() if entry.doubt}
    )
    text += _reasons(
        "not restored", {name: entry.reason for name, entry in restored.around.items() if entry.status == "lost"}
    )
    if about.not_rolled_back:
        text += f"left as they are: {_some(about.not_rolled_back)}\n"
    if restored.warnings:
        text += f"different since then: {_some(restored.warnings)}\n"
    return text


def _names(found: list[str]) -> str:
    """Count names, without those that IPython keeps outputs by."""
    count = len([name for name in found if not _is_output(name)])
    return "1 name" if count == 1 else f"{count} names"


def _is_output(name: str) -> bool:
    return name.startswith("_") and (name[1:].isdigit() or not name.strip("_"))


def _reasons(status: str, missing: dict[str, str]) -> str:
    lines = [f"{status}: {name}: {reason}\n" for name, reason in list(missing.items())[:_NAMED_MAX]]
    if len(missing) > _NAMED_MAX:
        lines.append(f"{status}: {len(missing) - _NAMED_MAX} more: {', '.join(list(missing)[_NAMED_MAX:])}\n")
    return "".join(lines)


def _some(words: list[Any]) -> str:
    return ", ".join(str(word) for word in words)
