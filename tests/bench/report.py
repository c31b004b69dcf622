"""The results as a table for people and as JSON for programs."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, assert_never

from .figures import Bar, Figure, Limit, Ratio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .run import Outcome, Run

_SUBJECT = "capsule"
_P99_SAMPLES = 1000


@dataclass(frozen=True)
class Line:
    """A figure's values per kernel (None: it has none), and whether the subject reached each bar (None: unknown)."""

    figure: Figure
    values: Mapping[str, float | None]
    counts: Mapping[str, int]
    failures: Mapping[str, str]
    verdicts: tuple[bool | None, ...]

    @property
    def verdict(self) -> str:
        """`pass`, `MISS`, or `-` when nothing could be compared."""
        if _SUBJECT not in self.values or (known := {v for v in self.verdicts if v is not None}) == set():
            return "-"
        return "pass" if known == {True} else "MISS"


def lines(run: Run) -> list[Line]:
    """One line for each figure of the run."""
    return [_line(run, figure) for figure in run.figures]


def _line(run: Run, figure: Figure) -> Line:
    outcomes = {kernel.name: run.outcomes[figure.source, kernel.name] for kernel in run.kernels}
    values = {name: _value(figure, outcome) for name, outcome in outcomes.items()}
    return Line(
        figure,
        values,
        {name: len(outcome.samples) for name, outcome in outcomes.items()},
        {name: outcome.failure for name, outcome in outcomes.items() if outcome.failure},
        tuple(_is_reached(figure, bar, values) for bar in figure.bars),
    )


def _value(figure: Figure, outcome: Outcome) -> float | None:
    if outcome.failure or not outcome.samples:
        return None
    match figure.statistic:
        case "median":
            return statistics.median(outcome.samples)
        case "p95":
            return sorted(outcome.samples)[int(len(outcome.samples) * 0.95)]
        case "p99":
            return sorted(outcome.samples)[int(len(outcome.samples) * 0.99)]
        case "max":
            return max(outcome.samples)
        case _:
            assert_never(figure.statistic)


def _is_reached(figure: Figure, bar: Bar, values: Mapping[str, float | None]) -> bool | None:
    if _SUBJECT not in values:
        return None
    if (mine := values[_SUBJECT]) is None:
        return False
    match bar:
        case Limit(value=limit):
            bound = limit
        case Ratio(peer=peer, factor=factor):
            if (theirs := values.get(peer)) is None:
                return None
            bound = theirs * factor
        case _:
            assert_never(bar)
    return mine >= bound if figure.is_more_better else mine <= bound


def table(run: Run) -> str:
    """A fixed-width table, then why values are missing."""
    names = [kernel.name for kernel in run.kernels]
    rows = [["figure", *names, "x ipykernel", "x xeus", "bar", ""]]
    reasons = defaultdict[str, list[str]](list)
    for line in lines(run):
        ratios = [_ratio(line, peer) for peer in ("ipykernel", "xeus")]
        title = f"{line.figure.title}, {line.figure.unit}"
        rows.append([title, *(_cell(line, name) for name in names), *ratios, _bar_text(line.figure), line.verdict])
        for name, failure in line.failures.items():
            reasons[f"{name}: {failure}"].append(line.figure.name)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    text.insert(1, "-" * len(text[0]))
    text += [f"{reason} [{', '.join(figures)}]" for reason, figures in reasons.items()]
    verdicts = Counter(row[-1] for row in rows[1:])
    return "\n".join([*text, *run.notes, f"bars: {verdicts['pass']} passed, {verdicts['MISS']} missed"])


def _cell(line: Line, name: str) -> str:
    if (value := line.values[name]) is None:
        return "failed" if name in line.failures else "-"
    text = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
    if line.figure.statistic == "p99" and line.counts[name] < _P99_SAMPLES:
        text += f" (n={line.counts[name]})"
    return text


def _ratio(line: Line, peer: str) -> str:
    mine, theirs = line.values.get(_SUBJECT), line.values.get(peer)
    return f"{mine / theirs:.2f}" if mine is not None and theirs else ""


def _bar_text(figure: Figure) -> str:
    sign = ">=" if figure.is_more_better else "<="
    texts = [
        f"{sign} {bar.factor:g} x {bar.peer}" if isinstance(bar, Ratio) else f"{sign} {bar.value:g}"
        for bar in figure.bars
    ]
    return ", ".join(texts)


def as_json(run: Run) -> dict[str, Any]:
    """All there is to know about the run, in plain values."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "rounds": run.rounds,
        "quick": run.quick,
        "versions": {kernel.name: kernel.version for kernel in run.kernels},
        "notes": run.notes,
        "figures": [
            {
                "name": line.figure.name,
                "title": line.figure.title.strip(),
                "unit": line.figure.unit,
                "statistic": line.figure.statistic,
                "bar": _bar_text(line.figure),
                "verdict": line.verdict,
                "values": line.values,
                "samples": line.counts,
                "spread": {name: _spread(run.outcomes[line.figure.source, name]) for name in line.values},
                "failures": line.failures,
            }
            for line in lines(run)
        ],
    }


def _spread(outcome: Outcome) -> dict[str, float]:
    if not outcome.samples:
        return {}
    ordered = sorted(outcome.samples)
    picks = {"min": 0.0, "q1": 0.25, "median": 0.5, "q3": 0.75, "p99": 0.99}
    last = len(ordered) - 1
    return {name: ordered[min(last, int(len(ordered) * part))] for name, part in picks.items()} | {"max": ordered[-1]}
