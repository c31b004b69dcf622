"""The worker's view of the input history: this session in memory, all else asked of the front, which owns the file.

No thread and no database here: both would stand in the way of forking the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from IPython.core.history import HistoryManager

Row = tuple[int, int, Any]


class WorkerHistory(HistoryManager):
    """IPython's history manager without its database."""

    def __init__(self, shell: Any, config: Any = None, **traits: Any) -> None:
        traits["enabled"] = False
        self._query: Callable[[dict[str, Any]], list[Any]] | None = None
        super().__init__(shell, config, **traits)

    def connect(self, query: Callable[[dict[str, Any]], list[Any]]) -> None:
        """Use `query` for other sessions' rows."""
        self._query = query

    def init_db(self) -> None:
        """Open nothing."""

    def new_session(self, conn: Any = None) -> None:
        """The front counts sessions."""

    def end_session(self) -> None:
        """The front ends sessions."""

    def close(self) -> None:
        """There is nothing to close."""

    def writeout_cache(self, conn: Any = None) -> None:
        """The front writes."""
        self.db_input_cache = []
        self.db_output_cache = []

    def store_inputs(self, line_num: int, source: str, source_raw: str | None = None) -> None:
        """Keep an input of this session; the front gets it with the end of the cell."""
        raw = (source if source_raw is None else source_raw).rstrip("\n")
        if self._exit_re.match(raw.strip()):
            return
        self.input_hist_parsed.append(source.rstrip("\n"))
        self.input_hist_raw.append(raw)
        # `_i`, `_ii`, `_iii` are traits, whose checks and observers would cost more than all the rest.
        values = self._trait_values
        values["_iii"] = values.get("_ii", "")
        values["_ii"] = values.get("_i", "")
        values["_i"] = values.get("_i00", "")
        values["_i00"] = raw
        names = {"_i": values["_i"], "_ii": values["_ii"], "_iii": values["_iii"], f"_i{line_num}": raw}
        self.shell.user_ns.update(names)
        self.shell.user_ns_hidden.update(names)

    def get_tail(
        self, n: int | None = 10, raw: bool = True, output: bool = False, include_latest: bool = False
    ) -> Iterable[Row]:
        """Return the last `n` inputs over all sessions."""
        # The front has an input with the end of its cell: its rows are without the cell that asks.
        return self._ask(hist_access_type="tail", n=10 if n is None else n, raw=raw, output=output)

    def search(
        self,
        pattern: str = "*",
        raw: bool = True,
        search_raw: bool = True,
        output: bool = False,
        n: int | None = None,
        unique: bool = False,
    ) -> Iterable[Row]:
        """Return inputs that match a glob pattern, over all sessions."""
        return self._ask(hist_access_type="search", pattern=pattern, raw=raw, output=output, n=n, unique=unique)

    def get_range(
        self,
        session: int = 0,
        start: int = 1,
        stop: int | None = None,
        raw: bool = True,
        output: bool = False,
    ) -> Iterable[Row]:
        """Return a range of inputs of one session; 0 is this one, negative numbers count back."""
        if session in (0, self.session_number):
            return self._get_range_session(start, stop, raw, output)
        return self._ask(hist_access_type="range", session=session, start=start, stop=stop, raw=raw, output=output)

    def get_session_info(self, session: int = 0) -> tuple[Any, ...]:
        """Return what is known of a session: its number, and nothing else."""
        return (session or self.session_number, None, None, None, "")

    def get_last_session_id(self) -> int | None:
        """Return the number of this session."""
        return int(self.session_number)

    def name_session(self, name: str) -> None:
        """Sessions have no names here: say so.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"a session cannot be named ({name!r}): the kernel's front owns the history file")

    def _ask(self, **arguments: Any) -> list[Row]:
        if self._query is None:
            return []
        rows = self._query(arguments)
        return [(row[0], row[1], tuple(row[2]) if isinstance(row[2], list) else row[2]) for row in rows]


# `%config` lists and finds it under the name that people know.
WorkerHistory.__name__ = "HistoryManager"
