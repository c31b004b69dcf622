"""The differences from ipykernel that are meant, by name, each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Outputs = Sequence[dict[str, Any]]
    Test = Callable[[str, Outputs, Outputs], bool]

SURVIVES = "ipykernel-dies"
"""ipykernel was lost with this cell, or before it; Capsule goes on."""


def reason_for(source: str, expected: Outputs, got: Outputs) -> str:
    """Return the name of the intended difference that this one is, empty when it is none."""
    return next((name for name, (_, is_it) in INTENDED.items() if is_it(source, expected, got)), "")


def _has_nested_loop(source: str, expected: Outputs, got: Outputs) -> bool:
    return any("running event loop" in _evalue(o) or "loop is already running" in _evalue(o) for o in expected)


def _forgot_await(source: str, expected: Outputs, got: Outputs) -> bool:
    return len(got) == len(expected) + 1 and "was never awaited: write `await" in got[-1].get("text", "")


def _said_twice(source: str, expected: Outputs, got: Outputs) -> bool:
    lines = expected[0].get("text", "").splitlines() if expected else []
    return len(lines) > 1 and lines[0].startswith("------> ") and lines[0] == lines[1]


def _puts_stream_back(source: str, expected: Outputs, got: Outputs) -> bool:
    return source.startswith("sys.stdout = ") and not expected


def _shows_childs_end(source: str, expected: Outputs, got: Outputs) -> bool:
    return "multiprocessing" in source and [o for o in expected if o.get("ename") != "GeneratorExit"] == list(got)


def _lists_magics(source: str, expected: Outputs, got: Outputs) -> bool:
    return source.strip() in ("%lsmagic", "%magic", "%quickref", "%magic -brief")


def _has_no_text(source: str, expected: Outputs, got: Outputs) -> bool:
    return any(_evalue(output).startswith("<text not available: ") for output in got)


def _edits_nothing(source: str, expected: Outputs, got: Outputs) -> bool:
    return source.startswith("%ed") and _evalue(expected[-1]).startswith("argument should be a str or an os.PathLike")


def _names_kernel(source: str, expected: Outputs, got: Outputs) -> bool:
    return source.strip() == "get_ipython().kernel"


def _shows_kernels_frames(source: str, expected: Outputs, got: Outputs) -> bool:
    """Whether all is equal but tracebacks' entries in files of ipykernel and of Capsule."""
    return _without_kernels_frames(expected) == _without_kernels_frames(got)


def _without_kernels_frames(outputs: Outputs) -> list[dict[str, Any]]:
    result = []
    for output in outputs:
        entries = output.get("traceback", [])
        kept = [entry for entry in entries if not _is_kernels(entry)]
        text = "\n\n".join(part for part in output.get("text", "").split("\n\n") if not _is_kernels(part))
        result.append({**output, "traceback": kept, "text": text})
    return result


def _is_kernels(entry: str) -> bool:
    return "/ipykernel/" in entry or "/capsule_kernel/" in entry


def _evalue(output: dict[str, Any]) -> str:
    return str(output.get("evalue", ""))


INTENDED: dict[str, tuple[str, Test]] = {
    "nested-loop": ("asyncio.run() and its like work inside a cell", _has_nested_loop),
    "forgotten-coroutine": ("a coroutine that nobody awaited is named", _forgot_await),
    "transforms-once": ("a cell is transformed once; IPython's autocall says what it did each time", _said_twice),
    "stream-put-back": ("what is printed by the cell that puts sys.stdout back is shown in it", _puts_stream_back),
    "fork-ends": ("a forked child's end is not shown as an error of the cell", _shows_childs_end),
    "more-magics": ("Capsule has magics of its own, and lists them", _lists_magics),
    "error-without-text": ("an error whose __str__ raises is shown, not the error of showing it", _has_no_text),
    "edit-of-nothing": ("%edit says that it does not find its argument, and leaves it at that", _edits_nothing),
    "kernel-object": ("get_ipython().kernel is an object of another class", _names_kernel),
    "kernel-frames": ("tracebacks do not show the kernel's own code", _shows_kernels_frames),
}
"""Name to reason and test; the test gets the cell's code, ipykernel's outputs and Capsule's."""
