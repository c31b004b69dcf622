"""`python -m tests.bench`: measure, print the table, write the JSON."""

from __future__ import annotations

import argparse
import compileall
import json
import signal
import sys
import tempfile
from pathlib import Path

import capsule_kernel

from .figures import FIGURES, Figure
from .kernels import DEFAULT, KERNELS
from .process import KernelError, Scratch
from .report import as_json, table
from .rows import GROUPS, completion
from .run import Run

_ROUNDS = 10
_QUICK_ROUNDS = 3
_DEFAULT = [kernel.name for kernel in DEFAULT]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Exit status 0 also when a bar is missed: the table says so; 130: ended early."""
    arguments = _parser().parse_args(argv)
    figures = _select(arguments.rows)
    with tempfile.TemporaryDirectory(prefix="capsule-bench-") as root:
        run = Run(
            kernels=tuple(KERNELS[name] for name in arguments.kernels),
            figures=figures,
            rounds=arguments.rounds or (_QUICK_ROUNDS if arguments.quick else _ROUNDS),
            quick=arguments.quick,
            scratch=Scratch(Path(root)),
        )
        _warm_up(run)
        status = 0
        # All rows take half an hour: what was measured until somebody ends it is not lost.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for group in dict.fromkeys(figure.group for figure in figures):
                print(f"measuring {group} ...", file=sys.stderr)
                GROUPS[group](run)
        except KeyboardInterrupt:
            print("ended early: the table has what was measured until then", file=sys.stderr)
            status = 130
        print(table(run))
        if arguments.json:
            arguments.json.write_text(json.dumps(as_json(run), indent=1) + "\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rows", nargs="+", metavar="NAME", default=[], help="figures or groups of them; default: all")
    parser.add_argument("--rounds", type=int, help=f"default {_ROUNDS}; a p99 needs 10")
    parser.add_argument("--quick", action="store_true", help=f"a first impression: {_QUICK_ROUNDS} rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument("--kernels", type=_kernels, default=_DEFAULT, help=f"default {','.join(_DEFAULT)}")
    return parser


def _kernels(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in KERNELS]:
        msg = f"unknown kernel {', '.join(unknown)}; known: {', '.join(KERNELS)}"
        raise argparse.ArgumentTypeError(msg)
    return names


def _select(names: list[str]) -> tuple[Figure, ...]:
    known = {figure.name for figure in FIGURES} | set(GROUPS)
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"unknown row {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return tuple(figure for figure in FIGURES if not names or {figure.name, figure.group} & set(names))


def _warm_up(run: Run) -> None:
    """One unmeasured start each: byte code, profile directories and Jedi's parser caches are there for all.

    pip compiles what it installs. A checkout has no byte code where the environment forbids to write any.
    """
    compileall.compile_dir(Path(capsule_kernel.__file__).parent, quiet=1)
    for kernel in run.kernels:
        try:
            with run.client(kernel) as client:
                completion.warm_up(client)
        except KernelError as failure:
            print(f"  {kernel.name} does not start: {failure}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
