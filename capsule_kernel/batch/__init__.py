"""Runs of whole notebooks: reading, executing, reporting and writing them. It never imports `front`.

`DurableNotebookClient` is here by name, loaded when it is asked for: nbclient is not needed by all that is in here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capsule_kernel.batch.client import DurableNotebookClient

__all__ = ["DurableNotebookClient"]


def __getattr__(name: str) -> Any:
    if name != "DurableNotebookClient":
        raise AttributeError(name)
    from capsule_kernel.batch.client import DurableNotebookClient

    return DurableNotebookClient
