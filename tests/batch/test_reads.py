"""What a cell may read: never too little."""

from __future__ import annotations

import pytest

from capsule_kernel.batch.reads import names_read


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["x = 1"], set()),
        (["y = x"], {"x"}),
        (["x = 1", "y = x"], set()),
        (["y = x", "x = 1"], {"x"}),
        (["x += 1"], {"x"}),
        (["del x"], {"x"}),
        (["def f():\n    return x"], {"x"}),
        (["if c:\n    x = 1", "x"], {"c", "x"}),
        (["for i in range(3):\n    pass", "i"], {"range", "i"}),
        (["import numpy as np", "np.zeros(n)"], {"n"}),
        (["from a.b import c", "c"], set()),
        (["class C:\n    k = z", "C()"], {"z"}),
        (["x, (y, *z) = t", "x, y, z"], {"t"}),
        (["a[0] = b"], {"a", "b"}),
        (["a.b = 1"], {"a"}),
        (["[x for x in xs]"], {"x", "xs"}),
        (["with open(p) as f:\n    pass"], {"open", "p"}),
        (["x: int = 1", "x"], {"int"}),
        (["x: int", "x"], {"int", "x"}),
        (["print(f'{x}')"], {"print", "x"}),
        (["await g(x)"], {"g", "x"}),
        (["%matplotlib inline\nplt.plot(x)"], {"plt", "x"}),
        (["!ls"], set()),
    ],
)
def test_names_that_cells_may_read(cells: list[str], names: set[str]) -> None:
    assert names_read(cells) == names


@pytest.mark.parametrize(
    "cell",
    [
        "exec(code)",
        "globals()['x']",
        "eval('x')",
        "%run other.py",
        "!echo {x}",
        "!echo $x",
        "x?",
        "this is no Python",
        "%%time\nx",
    ],
)
def test_code_that_may_reach_anything_reads_everything(cell: str) -> None:
    assert names_read([cell]) is None
