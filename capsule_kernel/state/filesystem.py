"""What the system says about the file system that a path is on."""

from __future__ import annotations

from pathlib import Path

_NETWORK = ("nfs", "cifs", "smb", "afs", "ceph", "fuse.sshfs", "fuse.gcsfuse", "fuse.s3fs", "fuse.rclone", "lustre")


def network_file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the network file system that `path` is on, or would be; empty where it is local or unknown.

    Source: proc_pid_mountinfo(5).
    """
    target = path.resolve()
    best, found = -1, ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = Path(fields[4].replace("\\040", " "))
        if target.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), after.split()[0]
    return found if found.startswith(_NETWORK) else ""
