from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from capsule_kernel.clock import Clock
from capsule_kernel.promises.embedded import EmbeddedPromises
from capsule_kernel.promises.store import Store


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "promises.sqlite3")


@pytest.fixture
def store(path: str) -> Iterator[Store]:
    opened = Store(path, Clock())
    yield opened
    opened.close()


@pytest.fixture
async def promises(path: str) -> AsyncIterator[EmbeddedPromises]:
    async with EmbeddedPromises(path) as opened:
        yield opened
