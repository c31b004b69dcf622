"""State that is not a variable: the working folder, the environment, random generators, options of libraries.

Each piece has a name, a way to read it and a way to put it back. A library that is not loaded has no state.
"""

from __future__ import annotations

import importlib
import linecache
import logging
import os
import signal
import sys
import time
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from capsule_kernel.state import modules, shell_state
from capsule_kernel.state.revive import NOTHING

ENVIRON = "environ/"
"""Prefix of the names of changed environment variables; a variable that was deleted has the value None."""

_BACKENDS = frozenset({"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"})
_RC_PARAMS_LEFT = frozenset({"backend", "backend_fallback", "toolbar", "interactive"})


class Piece(NamedTuple):
    """One piece of state."""

    read: Callable[[], Any]
    """Returns `NOTHING` where there is none."""
    write: Callable[[Any], None]
    is_early: bool = False
    """Whether it is put back before variables are loaded, since imports depend on it."""


def read_before_fork() -> dict[str, Any]:
    """Return what a forked child does not have any more: CPython seeds `random` anew in it."""
    loaded = sys.modules.get("random")
    return {} if loaded is None else {"random": loaded.getstate()}


def read(before_fork: Mapping[str, Any], environ_at_start: Mapping[str, str] | None) -> dict[str, Any]:
    """Return all pieces that there are; of the environment what changed, where it is known how it was."""
    found = {name: _read(piece) for name, piece in PIECES.items()}
    found |= before_fork
    if environ_at_start is not None:
        for name in {**environ_at_start, **os.environ}:
            value = os.environ.get(name)
            if value != environ_at_start.get(name):
                found[ENVIRON + name] = value
    found |= modules.read()
    return {name: value for name, value in found.items() if value is not NOTHING}


def _read(piece: Piece) -> Any:
    try:
        return piece.read()
    except Exception:  # noqa: BLE001 - what libraries and cells have put in its place: the variables are saved all the same
        return NOTHING


def write(name: str, value: Any, stamps: dict[str, Any]) -> bool:
    """Put a piece back; return whether there is such a piece. `stamps` is one dict for all pieces of a checkpoint."""
    if name.startswith(ENVIRON):
        if value is None:
            os.environ.pop(name.removeprefix(ENVIRON), None)
        else:
            os.environ[name.removeprefix(ENVIRON)] = value
        if name == f"{ENVIRON}TZ":
            # The C library reads it once, and when it is told to.
            time.tzset()
        return True
    if name.startswith(modules.PREFIX):
        modules.write(name, value, stamps)
        return True
    piece = PIECES.get(name)
    if piece is None:
        return False
    piece.write(value)
    return True


def is_early(name: str) -> bool:
    """Return whether a piece is put back before variables are loaded."""
    return name.startswith(ENVIRON) or (name in PIECES and PIECES[name].is_early)


def _of(module: str, get: Callable[[Any], Any]) -> Callable[[], Any]:
    def read_() -> Any:
        loaded = sys.modules.get(module)
        return NOTHING if loaded is None else get(loaded)

    return read_


def _to(module: str, put: Callable[[Any, Any], Any]) -> Callable[[Any], None]:
    def write_(value: Any) -> None:
        put(importlib.import_module(module), value)

    return write_


def _set_path(value: list[str]) -> None:
    sys.path[:] = value


def _filters() -> Any:
    return list(warnings.filters)


def _set_filters(value: list[Any]) -> None:
    # `resetwarnings` also has the registries of what was warned of already forgotten.
    warnings.resetwarnings()
    warnings.filters[:] = value  # type: ignore[index]


def _sources() -> Any:
    """Return the texts that no file holds: tracebacks and `inspect.getsource` show functions of cells from them."""
    return {name: entry for name, entry in linecache.cache.items() if len(entry) == 4 and entry[1] is None} or NOTHING


def _log_levels() -> Any:
    loggers = {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET
    }
    return {"": logging.root.level, **loggers}, logging.root.manager.disable


def _set_log_levels(value: tuple[dict[str, int], int]) -> None:
    levels, disabled = value
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    logging.disable(disabled)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _set_umask(mask: int) -> None:
    os.umask(mask)


def _signal_handlers() -> Any:
    """Return the handlers that cells have set; that of SIGINT is the kernel's to care for."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals() - {signal.SIGINT}}
    return {int(number): each for number, each in handlers.items() if isinstance(each, types.FunctionType)} or NOTHING


def _set_signal_handlers(value: dict[int, Any]) -> None:
    for number, handler in value.items():
        signal.signal(number, handler)


def _backend(matplotlib: Any) -> Any:
    """Return a backend without windows that a cell has chosen: figures are not shown then, nor closed."""
    backend = str(dict.get(matplotlib.rcParams, "backend", "")).lower()
    return backend if backend in _BACKENDS else NOTHING


def _rc_params(matplotlib: Any) -> Any:
    return {key: value for key, value in dict.items(matplotlib.rcParams) if key not in _RC_PARAMS_LEFT}


def _set_rc_params(matplotlib: Any, value: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matplotlib.rcParams.update({key: value[key] for key in value if key in matplotlib.rcParams})


def _pandas_options(config: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            key: config.get_option(key)
            for key, option in config._registered_options.items()  # noqa: SLF001 - no public list
            if config.get_option(key) is not option.defval and config.get_option(key) != option.defval
        }


def _set_pandas_options(config: Any, value: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config.reset_option("all")
        for key, setting in value.items():
            config.set_option(key, setting)


def _figures(helpers: Any) -> Any:
    managers = helpers.Gcf.get_all_fig_managers()
    return [(manager.num, manager.canvas.figure) for manager in managers] or NOTHING


def _set_figures(helpers: Any, value: list[tuple[Any, Any]]) -> None:
    # Loading a figure that pyplot managed gives it back to pyplot, but under a new number (`Figure.__setstate__`).
    managers = [(number, figure.canvas.manager) for number, figure in value]
    for _, manager in managers:
        helpers.Gcf.figs.pop(manager.num, None)
    for number, manager in managers:
        manager.num = number
        figure = manager.canvas.figure
        if hasattr(figure, "_number"):
            # Its public setter warns: nobody but pyplot is to set it.
            figure._number = number  # noqa: SLF001 - as above
        # The last one is the current one.
        helpers.Gcf.figs[number] = manager
        helpers.Gcf.figs.move_to_end(number)


PIECES: dict[str, Piece] = {
    "cwd": Piece(os.getcwd, os.chdir, is_early=True),
    "sys.path": Piece(lambda: list(sys.path), _set_path, is_early=True),
    "recursion limit": Piece(sys.getrecursionlimit, sys.setrecursionlimit, is_early=True),
    "warnings filters": Piece(_filters, _set_filters),
    "logging levels": Piece(_log_levels, _set_log_levels),
    "cell sources": Piece(_sources, linecache.cache.update),
    "umask": Piece(_umask, _set_umask),
    "signal handlers": Piece(_signal_handlers, _set_signal_handlers),
    "IPython extensions": Piece(shell_state.read_extensions, shell_state.load_extensions),
    "IPython aliases": Piece(shell_state.read_aliases, shell_state.define_aliases),
    "IPython magics": Piece(shell_state.read_magics, shell_state.register_magics),
    "IPython event callbacks": Piece(shell_state.read_callbacks, shell_state.register_callbacks),
    "IPython display settings": Piece(shell_state.read_display, shell_state.set_display),
    "decimal context": Piece(
        _of("decimal", lambda decimal: decimal.getcontext()),
        _to("decimal", lambda decimal, value: decimal.setcontext(value)),
    ),
    "numpy print options": Piece(
        _of("numpy", lambda numpy: numpy.get_printoptions()),
        _to("numpy", lambda numpy, value: numpy.set_printoptions(**value)),
    ),
    "numpy error handling": Piece(
        _of("numpy", lambda numpy: numpy.geterr()), _to("numpy", lambda numpy, value: numpy.seterr(**value))
    ),
    "pandas options": Piece(
        _of("pandas._config.config", _pandas_options), _to("pandas._config.config", _set_pandas_options)
    ),
    "matplotlib backend": Piece(
        _of("matplotlib", _backend),
        _to("matplotlib", lambda matplotlib, value: matplotlib.use(value)),
        # The first figure that is loaded has pyplot take one for good.
        is_early=True,
    ),
    "rcParams": Piece(_of("matplotlib", _rc_params), _to("matplotlib", _set_rc_params)),
    "figures": Piece(_of("matplotlib._pylab_helpers", _figures), _to("matplotlib._pylab_helpers", _set_figures)),
    # Last: nothing that is put back may draw from them afterwards.
    "numpy.random": Piece(
        _of("numpy.random", lambda random: random.get_state()),
        _to("numpy.random", lambda random, value: random.set_state(value)),
    ),
    "random": Piece(
        _of("random", lambda random: random.getstate()), _to("random", lambda random, value: random.setstate(value))
    ),
}
