"""Pyplot's state for code that runs while a cell awaits: figures of its own, so that the cell's stay as they are.

`%matplotlib inline` shows and closes all figures when code has run. A comm message's handler is such code, and a cell
that awaits may be half-way through a figure.
"""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Iterator

_INLINE = ("inline", "module://matplotlib_inline.backend_inline")


@contextlib.contextmanager
def own_figures() -> Iterator[None]:
    """Have pyplot begin without figures inside the block, and put back the outer ones after it.

    Does nothing where figures outlive the code that made them: there they are the handler's business as well.
    """
    inline = sys.modules.get("matplotlib_inline.backend_inline")
    matplotlib = sys.modules.get("matplotlib")
    if (
        inline is None
        or matplotlib is None
        or matplotlib.get_backend() not in _INLINE
        or not inline.InlineBackend.instance().close_figures
    ):
        yield
        return
    pyplot, drawn = sys.modules["matplotlib._pylab_helpers"].Gcf, vars(inline.show)
    outer_figures, outer_drawn = pyplot.figs, dict(drawn)
    pyplot.figs = OrderedDict()
    drawn.update(_draw_called=False, _to_draw=[])
    try:
        yield
    finally:
        pyplot.figs = outer_figures
        drawn.update(outer_drawn)
