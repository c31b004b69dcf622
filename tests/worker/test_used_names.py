"""parso's index of names, as we make it: the same as its own, for real modules and for odd ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jedi
import parso
import pytest

from capsule_kernel.worker.used_names import used_names

STUBS = Path(jedi.__file__).parent / "third_party/typeshed/stdlib"
FILES = [*sorted(STUBS.glob("*.pyi"))[::40], Path(parso.__file__).parent / "python/tree.py", STUBS / "builtins.pyi"]
ODD = {
    "empty": "",
    "errors": "def f(:\n  x = = 1\n)) y.z for in",
    "texts": "f'{a!r:>{b}} {c}' 'd' b'e'\nprint(f'{f(g=h)}')",
    "decorated": "@a.b\nasync def c(d: e = f, *g, **h) -> i:\n    async with j as k: yield m\n    [n async for o in p]",
    "matched": "match a:\n    case B(c=d, e=[f, *g]) | {'h': i, **j}: pass\ntype K[L: M] = N",
}


def own(module: parso.python.tree.Module) -> dict[str, list[object]]:
    return dict(module.get_used_names())


@pytest.mark.parametrize("text", [*ODD.values(), *(pytest.param(path.read_text(), id=path.name) for path in FILES)])
def test_it_is_the_same_as_parsos_own(text: str) -> None:
    module = parso.parse(text)
    expected, found = own(module), used_names(module)
    assert list(found) == list(expected)
    for name, leaves in expected.items():
        assert [id(leaf) for leaf in found[name]] == [id(leaf) for leaf in leaves]


def test_parso_uses_it_from_then_on() -> None:
    program = (
        "import parso\nfrom capsule_kernel.worker import used_names\n"
        "assert used_names.hasten() and used_names.hasten()\n"
        "module = parso.parse('a = b; a')\nnames = module.get_used_names()\n"
        "assert list(names) == ['a', 'b'] and len(names['a']) == 2 and names is module.get_used_names()\n"
        "assert 'used_names' in type(module).get_used_names.__code__.co_filename\n"
        "import jedi; assert 'json' in [c.name for c in jedi.Interpreter('import jso', [{}]).complete()]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_another_parso_is_left_alone() -> None:
    program = (
        "from parso.python import tree\ndel tree.UsedNamesMapping\nbefore = tree.Module.get_used_names\n"
        "from capsule_kernel.worker import used_names\nassert not used_names.hasten()\n"
        "assert tree.Module.get_used_names is before"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
