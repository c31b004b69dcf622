"""How polars' values are taken apart in a fork, where polars' threads are not.

Polars writes a table of several chunks down with its thread pool, which a forked child has not: it would wait for ever.
Chunk by chunk needs no thread. What cannot be had without is refused, with the reason.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from capsule_kernel.state import rebuild
from capsule_kernel.state.reasons import Unsaveable

if TYPE_CHECKING:
    from collections.abc import Callable

    from capsule_kernel.state.pickler import RecordPickler


def _frame(frame: Any, _pickler: RecordPickler) -> Any:
    columns = frame.get_columns()
    if all(column.n_chunks() == 1 for column in columns):
        # Polars' own way needs no thread then.
        return NotImplemented
    return rebuild.polars_frame, ([_chunks(column) for column in columns],)


def _series(series: Any, _pickler: RecordPickler) -> Any:
    return NotImplemented if series.n_chunks() == 1 else (rebuild.polars_series, (_chunks(series),))


def _plan(_plan: Any, _pickler: RecordPickler) -> Any:
    # Its tables and its files are looked at on the way.
    raise Unsaveable("a plan of polars, which it writes down with threads that a fork has not")


def _chunks(series: Any) -> list[bytes]:
    return [pickle.dumps(chunk, protocol=5) for chunk in series.get_chunks()]


REDUCERS: dict[str, Callable[[Any, RecordPickler], Any]] = {
    "polars.dataframe.frame.DataFrame": _frame,
    "polars.series.series.Series": _series,
    "polars.lazyframe.frame.LazyFrame": _plan,
}
