"""What a session may do next: phases, events, and the table of what leads where.

One function changes a phase; a pair that the table does not name is a defect and raises.
"""

from __future__ import annotations

import enum

from capsule_kernel.errors import IllegalTransition


class Phase(enum.Enum):
    """Where a session stands."""

    FORKING = "forking"
    """The zygote was asked for a process."""
    STARTING = "starting"
    """The process exists and runs the profile's start-up files."""
    SLEEPING = "sleeping"
    """The process is a snapshot: it waits to be needed."""
    IDLE = "idle"
    """The worker waits for a cell."""
    BUSY = "busy"
    """The worker runs a cell."""
    STOPPING = "stopping"
    """The worker was told to leave, or killed; its end has not been seen."""
    DEAD = "dead"
    """The process has ended and everything that it said has been read."""


class Event(enum.Enum):
    """What happens to a session."""

    FORKED = "forked"
    BORN = "born"
    WAKE = "wake"
    READY = "ready"
    RESUMED = "resumed"
    EXECUTE = "execute"
    DONE = "done"
    STOP = "stop"
    EXIT = "exit"


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.FORKING, Event.FORKED): Phase.STARTING,
    (Phase.FORKING, Event.STOP): Phase.STOPPING,
    (Phase.FORKING, Event.EXIT): Phase.DEAD,
    (Phase.FORKING, Event.BORN): Phase.SLEEPING,
    (Phase.SLEEPING, Event.WAKE): Phase.STARTING,
    (Phase.SLEEPING, Event.STOP): Phase.STOPPING,
    (Phase.SLEEPING, Event.EXIT): Phase.DEAD,
    (Phase.STARTING, Event.READY): Phase.IDLE,
    (Phase.STARTING, Event.RESUMED): Phase.BUSY,
    (Phase.STARTING, Event.STOP): Phase.STOPPING,
    (Phase.STARTING, Event.EXIT): Phase.DEAD,
    (Phase.IDLE, Event.EXECUTE): Phase.BUSY,
    (Phase.IDLE, Event.STOP): Phase.STOPPING,
    (Phase.IDLE, Event.EXIT): Phase.DEAD,
    (Phase.BUSY, Event.DONE): Phase.IDLE,
    (Phase.BUSY, Event.STOP): Phase.STOPPING,
    (Phase.BUSY, Event.EXIT): Phase.DEAD,
    # What was under way when the worker was told to leave may still be said.
    (Phase.STOPPING, Event.FORKED): Phase.STOPPING,
    (Phase.STOPPING, Event.READY): Phase.STOPPING,
    (Phase.STOPPING, Event.RESUMED): Phase.STOPPING,
    (Phase.STOPPING, Event.DONE): Phase.STOPPING,
    (Phase.STOPPING, Event.STOP): Phase.STOPPING,
    (Phase.STOPPING, Event.EXIT): Phase.DEAD,
}


def advance(phase: Phase, event: Event) -> Phase:
    """Return the phase that `event` leads to.

    Raises:
        IllegalTransition: the table has no such pair.
    """
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise IllegalTransition(phase.value, event.value) from None
