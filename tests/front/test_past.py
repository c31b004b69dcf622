"""What is said of the cells that a way back takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from capsule_kernel.front.past import what_is_live

HEIR: Any = SimpleNamespace(count=1)


@pytest.mark.parametrize(
    ("since", "told"),
    [
        ([2], "cell [2] had run"),
        ([2, 3], "cells [2] and [3] had run"),
        ([2, 0], "cells [2] and one without a number had run"),
        ([0, 2, 0], "cells [2] and 2 without a number had run"),
        (list(range(2, 20)), "cells [2], … and [19] had run"),
        ([*range(2, 20), 0, 0], "cells [2], …, [19] and 2 without a number had run"),
    ],
)
def test_the_cells_that_had_run_are_named(since: list[int], told: str) -> None:
    assert f"; {told} since then" in what_is_live(HEIR, since, has_cell=False)
