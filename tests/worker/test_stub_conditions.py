"""Conditions of type stubs, as we decide them: the same as Jedi's own inference, for all that its stubs ask."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jedi
import parso
import pytest

from capsule_kernel.worker.stub_conditions import decide

STUBS = Path(jedi.__file__).parent / "third_party/typeshed"
STATUS = {True: "REACHABLE", False: "UNREACHABLE", None: "UNSURE"}
OTHERS = [f"sys.version_info {sign} {version}" for sign in ("==", "!=", "<", "<=", ">", ">=") for version in
          ("(3,)", "(3, 0)", "(4, 0)", "(3, 13, 0)", f"({', '.join(map(str, sys.version_info[:3]))})")]  # fmt: skip

# Asks Jedi itself, in a process where nothing is hastened.
ASK = """
import json, sys
import jedi
from jedi.file_io import FileIO
from jedi.inference import flow_analysis
from jedi.inference.gradual.typeshed import create_stub_module, parse_stub_module

file = FileIO(sys.argv[1])
state = jedi.Script("")._inference_state
tree = parse_stub_module(state, file)
context = create_stub_module(state, state.latest_grammar, [], tree, file, ("some_stub",)).as_context()
assert context.get_root_context().is_stub()
names = {id(getattr(flow_analysis, name)): name for name in ("REACHABLE", "UNREACHABLE", "UNSURE")}
conditions = [test for each in tree.children if each.type == "if_stmt" for test in each.get_test_nodes()]
print(json.dumps([names[id(flow_analysis._check_if(context, each))] for each in conditions]))
"""

# Two processes that complete the same things; the second one with all that makes the first completion quick.
COMPLETE = """
import json, sys
from jedi import Interpreter
from parso.cache import parser_cache
if sys.argv[1] == "hastened":
    from capsule_kernel.worker import stub_conditions
    assert stub_conditions.hasten() and stub_conditions.hasten()
import os, string, collections
names = dict(os=os, string=string, collections=collections, text="", items=[], table={}, number=1.5)
asked = ["imp", "os.", "os.path.j", "text.", "items.", "table.", "number.", "string.cap", "collections.", "open("]
for text in asked:
    print(json.dumps([(each.name, each.type, each.complete) for each in Interpreter(text, [names]).complete()]))
for text in ("print(", "open(", "text.split("):
    print(json.dumps([each.to_string() for each in Interpreter(text, [names]).get_signatures()]))
print(json.dumps(sorted(str(path) for each in parser_cache.values() for path in each if path)))
"""


def run(program: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.splitlines()


def node_of(condition: str) -> Any:
    return parso.parse(condition).children[0]


def is_known(condition: str) -> bool:
    node = node_of(condition)
    if node.type != "comparison":
        return False
    try:
        decide(node, (3, 13, 0))
    except LookupError:
        return False
    return True


def test_it_decides_what_stubs_ask_as_jedi_does(tmp_path: Path) -> None:
    stubs = [path.read_text() for path in STUBS.rglob("*.pyi")]
    lines = {line for text in stubs for line in re.findall(r"^ *(?:el)?if (sys\..+):", text, re.MULTILINE)}
    conditions = [line for line in sorted(lines) if is_known(line)]
    assert {'sys.platform != "win32"', 'sys.platform == "darwin"', "sys.version_info >= (3, 12)"} <= {*conditions}
    conditions += OTHERS
    stub = tmp_path / "some_stub.pyi"
    stub.write_text("import sys\n" + "".join(f"if {condition}:\n    x: int\n" for condition in conditions))
    answers = json.loads(run(ASK, str(stub))[0])
    assert answers == [STATUS[decide(node_of(condition), sys.version_info[:3])] for condition in conditions]
    assert {*answers} == {*STATUS.values()}


def test_completions_are_the_same_and_fewer_stubs_are_read() -> None:
    *own, read = run(COMPLETE, "as it is")
    *ours, read_by_us = run(COMPLETE, "hastened")
    assert ours == own
    assert {*json.loads(read_by_us)} < {*json.loads(read)}


@pytest.mark.parametrize(
    "condition",
    [
        "sys.version_info >= version",
        "sys.version_info >= (3, x)",
        "sys.version_info >= (3.5, 1)",
        "sys.version_info in (3, 4)",
        "sys.version_info[0] == 3",
        "sys.platform == name",
        "sys.platform >= 'linux'",
        "os.name == 'nt'",
        "1 < sys.version_info < (3, 4)",
    ],
)
def test_other_conditions_are_left_to_jedi(condition: str) -> None:
    assert node_of(condition).type == "comparison"
    assert not is_known(condition)


def test_another_jedi_is_left_alone() -> None:
    program = (
        "from jedi.inference import flow_analysis\ndel flow_analysis.UNSURE\nbefore = flow_analysis._check_if\n"
        "from capsule_kernel.worker import stub_conditions\nassert not stub_conditions.hasten()\n"
        "assert flow_analysis._check_if is before"
    )
    assert run(program) == []
