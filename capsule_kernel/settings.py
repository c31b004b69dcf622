"""What a kernel is told when it starts: its arguments, its configuration files, and the settings that follow.

The kernel's start waits for this module, so it imports neither argparse nor traitlets nor jupyter_core: traitlets'
loader comes in only when a configuration file exists. It only reads; it knows nothing about sockets and workers.
"""

import os
import site
import sys
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from capsule_kernel.errors import ConfigurationError

CONFIG_NAME = "jupyter_capsule_config"
"""Name, without `.py` or `.json`, of the configuration files that are looked for in Jupyter's folders."""

DURABILITIES = ("off", "embedded", "remote")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Traits of `CapsuleKernel`: `--CapsuleKernel.name=value`, or `c.CapsuleKernel.name = value` in a file."""

    preload: tuple[str, ...] = ()
    """Modules that the zygote imports before it forks workers, for example `('numpy', 'pandas')`."""

    executor_factory: str = "capsule_kernel.worker.executor:AsyncExecutor"
    """What runs cells in a worker, as `module:attribute`; called there with its collaborators."""

    spare_workers: int = 1
    """How many warm workers wait beside the one in use. 0 saves memory; a replacement then takes a fork longer."""

    compile_cache_size: int = 512
    """How many compiled cells a worker keeps; 0 compiles each time."""

    snapshots: int = 5
    """How many sleeping snapshots of the worker are kept at most, for `%undo` and for crashes; 0 takes none."""

    snapshots_cap_mb: int = 0
    """Megabytes that snapshots may hold beside what the worker has; 0, and at most: a quarter of what the kernel may
    use. The oldest end first."""

    checkpoint_idle_ms: int = 1000
    """Milliseconds of idleness after which a durable checkpoint is taken in the background; 0: only `%checkpoint` does.
    Only after cells of a person, whose client can be asked: batch runs take theirs themselves."""

    checkpoint_proof_idle_ms: int = 10_000
    """Milliseconds of idleness after a checkpoint that was taken by itself, until a fresh process proves that it can be
    restored; 0: it does so for `%checkpoint` only."""

    checkpoints_folder: str = ""
    """The store of checkpoints; empty for `CAPSULE_CHECKPOINTS`, else `capsule/checkpoints` in Jupyter's data
    folder."""

    checkpoints_cap_mb: int = 10_000
    """Megabytes that the store may take on the disk; the oldest unnamed checkpoints make room for new ones."""

    session: str = ""
    """Whose checkpoints these are, where neither `JPY_SESSION_NAME` nor the notebook says; empty: those of the folder
    that the kernel was started in."""

    flush_tick_ms: int = 20
    """Milliseconds after which output that a running cell holds back is asked for the first time."""

    stream_interval_ms: int = 50
    """Milliseconds between two messages of one stream: what is written meanwhile goes out as one message."""

    stream_hold_ms: int = 200
    """Milliseconds for which text of a stream that nobody flushes waits for more; ipykernel's value."""

    max_output_bytes: int = 268_435_456
    """Size in bytes of the largest single output message; what is longer is cut, and the cut is said."""

    journal_cap_bytes: int = 16_777_216
    """Size in bytes of the outputs that are kept for clients that come back: of the cells that run, and of the last
    ones before. What is over it goes, oldest first; 0 keeps none."""

    iopub_msg_rate: int = 1000
    """Messages per second on iopub at most, over the window below; 0 does not pace. A Jupyter server drops what
    exceeds its own `iopub_msg_rate_limit` of 1,000."""

    iopub_rate_window_ms: int = 3000
    """Milliseconds over which `iopub_msg_rate` is counted; a Jupyter server counts over 3 s."""

    interrupt_grace_ms: int = 2000
    """Milliseconds that an interrupt is given to work. A second one after that replaces the worker."""

    shutdown_grace_ms: int = 2000
    """Milliseconds that a worker is given to run its exit handlers at a shutdown, before it is killed."""

    worker_start_timeout_ms: int = 60_000
    """Milliseconds within which a new worker must have answered, the imports of `preload` included."""

    inspect_ack_timeout_ms: int = 100
    """Milliseconds that a busy worker has to say that it is looking at a completion or an inspection."""

    inspect_timeout_ms: int = 10_000
    """Milliseconds that completion and inspection may take once a worker works on them."""

    history_file: str = ""
    """SQLite file of the input history: empty for the IPython profile's own, `:memory:` for none on disk."""

    durability: str = "embedded"
    """Where promises are kept, and with them the record of executions and questions; one of `DURABILITIES`: nowhere, in
    `promises_file`, or on the Resonate server at `resonate_url`."""

    promises_file: str = ""
    """SQLite file of the promises: empty for the environment's `CAPSULE_PROMISES_FILE`, or else the user's own file in
    Jupyter's data folder."""

    promises_retention_days: int = 30
    """Days that settled promises are kept in the file; 0 keeps them for ever."""

    durable_input: bool = False
    """Whether `input()` waits for an answer from elsewhere (`capsule answer`) where the client that runs the cell
    cannot be asked, as in batch runs; off: it is ipykernel's error."""

    input_timeout_ms: int = 0
    """Milliseconds after which a question of `input()` is over; 0: it waits as long as it takes."""

    resonate_url: str = ""
    """URL of the Resonate server: empty for the environment's `RESONATE_URL`."""

    resonate_token_command: str = ""
    """Command line that prints a token for the Resonate server, run again when one is refused; empty for the
    environment's `RESONATE_TOKEN`."""

    log_level: str = "WARNING"
    """The least severe log record that is written to the kernel's standard error; one of `LOG_LEVELS`."""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One start of the kernel, as the command line and the configuration files describe it."""

    connection_file: str = ""
    """As it was given; empty when the kernel makes one itself. A bare file name may be meant in the runtime folder."""

    settings: Settings
    """The kernel's own settings."""

    ipython_args: tuple[str, ...] = ()
    """Arguments for IPython in the worker, in rising priority: other sections of the configuration files, then the
    arguments that are not the kernel's, untouched."""

    debug: bool = False
    """`--debug`: `log_level` is DEBUG."""

    no_secure: bool = False
    """`--no-secure`: a connection file that the kernel makes has an empty key, messages are not signed."""

    ip: str = ""
    """Address to listen on when the kernel makes the connection file; empty for the default."""

    transport: str = ""
    """`tcp` or `ipc` when the kernel makes the connection file; empty for the default."""

    shell_port: int = 0
    """Port when the kernel makes the connection file; 0 takes a free one. The other four alike."""

    iopub_port: int = 0
    stdin_port: int = 0
    control_port: int = 0
    hb_port: int = 0


def load_launch(argv: Sequence[str], environ: Mapping[str, str]) -> Launch:
    """Read the command line and the configuration files.

    Arguments win over files, and a file in a folder of higher priority wins over one of lower priority. Arguments that
    are not known here are IPython's, and kept for the worker.

    Args:
        argv: the arguments without the program's name.
        environ: environment variables; says where Jupyter's configuration is.

    Raises:
        ConfigurationError: an argument or a file cannot be understood; the text names it.
    """
    line = _CommandLine(argv)
    files = list(config_files(environ))
    if line.config_file:
        extra = os.path.expanduser(line.config_file)
        if not os.path.isfile(extra):
            raise ConfigurationError(source=f"--config={line.config_file}", expected="the path of an existing file")
        files.append(extra)

    values: dict[str, object] = {}
    foreign: list[str] = []
    for path in files:
        for section, name, value in _read_config_file(path):
            if section == "CapsuleKernel":
                values[name] = _setting(name, value, path)
            else:
                foreign.append(_as_argument(section, name, value, path))
                values.update(_history_setting(f"{section}.{name}", str(value)))
    values |= line.implied
    for name, texts in line.settings.items():
        values[name] = _setting(name, texts[0] if len(texts) == 1 else texts, f"--CapsuleKernel.{name}={texts[-1]}")
    if line.debug:
        values["log_level"] = "DEBUG"

    return Launch(
        connection_file=line.connection_file,
        settings=msgspec.convert(values, Settings),
        ipython_args=(*foreign, *line.foreign),
        debug=line.debug,
        no_secure=line.no_secure,
        ip=line.texts.get("ip", ""),
        transport=line.texts.get("transport", ""),
        **line.ports,
    )


# Class names that ipykernel's users put before a trait of the connection.
_CONNECTION_CLASSES = ("ConnectionFileMixin", "KernelConnectionFileMixin", "IPKernelApp", "KernelApp")
_PORTS = ("shell", "iopub", "stdin", "control", "hb")
_HISTORY_CLASSES = ("HistoryManager", "HistoryAccessor")


class _CommandLine:
    """The arguments, sorted by who they are for. Accepts `--name=value`, `--name value`, `-f FILE` and `-f=FILE`."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.connection_file = ""
        self.config_file = ""
        self.debug = False
        self.no_secure = False
        self.texts: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self.settings: dict[str, list[str]] = {}
        self.implied: dict[str, object] = {}
        self.foreign: list[str] = []

        rest = list(argv)
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.foreign += [word, *rest]
                return
            if not self._take(word, rest):
                self.foreign.append(word)

    def _take(self, word: str, rest: list[str]) -> bool:
        """Use one argument, and its value from `rest` when it stands apart; False when it is not the kernel's."""
        if word.startswith("-f") and not word.startswith("--"):
            self.connection_file = word[2:].removeprefix("=") or _value_of(word, rest)
            return True
        name, equals, text = word.partition("=")
        if not name.startswith("--"):
            return False
        name = name.removeprefix("--")
        owner, dot, trait = name.rpartition(".")
        if dot and owner in _CONNECTION_CLASSES:
            name = trait.removesuffix("_port") if trait.removesuffix("_port") in _PORTS else trait

        if name == "debug":
            self.debug = True
        elif name == "no-secure":
            self.no_secure = True
        elif owner == "CapsuleKernel":
            self.settings.setdefault(trait, []).append(text if equals else _value_of(word, rest))
        elif name in {"f", "connection_file"}:
            self.connection_file = text if equals else _value_of(word, rest)
        elif name == "config":
            self.config_file = text if equals else _value_of(word, rest)
        elif name in {"log-level", "Application.log_level", "log_level"}:
            self.settings["log_level"] = [text if equals else _value_of(word, rest)]
        elif name == "ip":
            self.texts["ip"] = text if equals else _value_of(word, rest)
        elif name == "transport":
            self.texts["transport"] = _transport(text if equals else _value_of(word, rest), word)
        elif name in _PORTS:
            self.ports[f"{name}_port"] = _port(text if equals else _value_of(word, rest), word)
        else:
            if owner in _HISTORY_CLASSES:
                self.implied |= _history_setting(name, text if equals else (rest or [""])[0])
            return False
        return True


def _value_of(word: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("-"):
        raise ConfigurationError(source=word, expected=f"a value, as in {word} VALUE")
    return rest.pop(0)


def _transport(text: str, word: str) -> str:
    if text not in {"tcp", "ipc"}:
        raise ConfigurationError(source=word, value=text, expected="tcp or ipc")
    return text


def _port(text: str, word: str) -> int:
    # With ipc, a "port" is the number at the end of a file name: the same range serves.
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ConfigurationError(source=word, value=text, expected="a port number from 0 (any free one) to 65535")
    return int(text)


def _history_setting(name: str, text: str) -> dict[str, object]:
    """The front owns the history, so it obeys the traits of IPython's `HistoryManager` too."""
    match name.rpartition("."):
        case owner, _, "hist_file" if owner in _HISTORY_CLASSES:
            return {"history_file": text}
        case owner, _, "enabled" if owner in _HISTORY_CLASSES and text.lower() in {"false", "0"}:
            return {"history_file": ":memory:"}
    return {}


def _setting(name: str, value: object, source: str) -> object:
    """Bring a value to the type of the setting; text is read as traitlets reads it."""
    if name not in Settings.__struct_fields__:
        from difflib import get_close_matches

        near = get_close_matches(name, Settings.__struct_fields__, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        expected = f"one of the settings {', '.join(Settings.__struct_fields__)}{hint}"
        raise ConfigurationError(source=source, name=f"CapsuleKernel.{name}", expected=expected)
    kind = Settings.__annotations__[name]
    result: object
    if kind is bool:
        result, expected = _flag(value), "True or False"
    elif kind is int:
        result, expected = _integer(value), "a whole number, 0 or greater"
    elif name == "log_level":
        result, expected = _log_level(value), f"one of {', '.join(LOG_LEVELS)}"
    elif name == "durability":
        result, expected = value if value in DURABILITIES else None, f"one of {', '.join(DURABILITIES)}"
    elif name == "executor_factory":
        result, expected = value if isinstance(value, str) and ":" in value else None, "module:attribute"
    elif kind is str:
        result, expected = value if isinstance(value, str) else None, "a text"
    else:
        result, expected = _texts(value), "a list of texts, as in ['numpy', 'pandas']"
    if result is None:
        raise ConfigurationError(source=source, name=f"CapsuleKernel.{name}", value=str(value), expected=expected)
    return result


def _integer(value: object) -> int | None:
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _flag(value: object) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _log_level(value: object) -> str | None:
    text = str(value).upper()
    if text.isdigit() and int(text) % 10 == 0 and 10 <= int(text) <= 50:
        text = LOG_LEVELS[int(text) // 10 - 1]
    return text if text in LOG_LEVELS else None


def _texts(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        if value[:1] not in {"[", "("}:
            return (value,) if value else ()
        from ast import literal_eval

        try:
            value = literal_eval(value)
        except (ValueError, SyntaxError):
            return None
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        return None
    return tuple(value)


def config_files(environ: Mapping[str, str]) -> Iterator[str]:
    """Existing configuration files in rising priority: the last one wins.

    The folders are those of Jupyter (docs.jupyter.org, "Common Directories and File Locations"). Unlike Jupyter's
    applications, a kernel does not look into the current folder: it is the notebook's, and may be somebody else's.
    """
    for folder in reversed(config_folders(environ)):
        for suffix in (".py", ".json"):  # as traitlets: what is in the JSON file wins
            path = os.path.join(folder, CONFIG_NAME + suffix)
            if os.path.isfile(path):
                yield path


def config_folders(environ: Mapping[str, str]) -> list[str]:
    """Jupyter's configuration path, highest priority first: what `jupyter --paths` prints under `config`."""
    if environ.get("JUPYTER_NO_CONFIG"):
        return []
    if _is_set(environ, "JUPYTER_PLATFORM_DIRS"):
        from jupyter_core.paths import jupyter_config_path

        return [str(folder) for folder in jupyter_config_path()]
    join = os.path.join
    home = environ.get("HOME") or os.path.expanduser("~")
    user = [environ.get("JUPYTER_CONFIG_DIR") or join(home, ".jupyter")]
    if site.ENABLE_USER_SITE:
        user.append(join(site.getuserbase(), "etc", "jupyter"))
    system = ["/usr/local/etc/jupyter", "/etc/jupyter"]
    ours = [folder for folder in (join(sys.prefix, "etc", "jupyter"),) if folder not in system]
    explicit = [folder.rstrip(os.sep) for folder in environ.get("JUPYTER_CONFIG_PATH", "").split(os.pathsep) if folder]
    middle = ours + user if _prefers_environment(environ) else user + ours
    return [*explicit, *middle, *system]


def _prefers_environment(environ: Mapping[str, str]) -> bool:
    """Whether the environment's folder comes before the user's, by jupyter_core's rule (since its release 5.0)."""
    if "JUPYTER_PREFER_ENV_PATH" in environ:
        return _is_set(environ, "JUPYTER_PREFER_ENV_PATH")
    if sys.prefix != sys.base_prefix and _is_owned(sys.prefix):
        return True
    conda = environ.get("CONDA_PREFIX", "")
    in_conda = bool(conda) and sys.prefix.startswith(conda) and environ.get("CONDA_DEFAULT_ENV", "base") != "base"
    return in_conda and _is_owned(sys.prefix)


def _is_owned(folder: str) -> bool:
    try:
        if os.stat(folder).st_uid == os.geteuid():
            return True
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    """Jupyter's reading of a flag in the environment."""
    return environ.get(name, "no").lower() not in {"no", "n", "false", "off", "0", "0.0"}


def _read_config_file(path: str) -> Iterator[tuple[str, str, object]]:
    """Yield section, trait and value; a nested section's name is dotted."""
    from traitlets.config.loader import ConfigFileNotFound, JSONFileConfigLoader, PyFileConfigLoader

    loader = JSONFileConfigLoader if path.endswith(".json") else PyFileConfigLoader
    folder, name = os.path.split(path)
    try:
        config = loader(name, path=folder or ".").load_config()
    except ConfigFileNotFound as exc:
        raise ConfigurationError(source=path, value=str(exc), expected="a file that can be read") from exc
    except (Exception, SystemExit) as exc:  # the file is user code: whatever it raises is its own error
        reason = f"{type(exc).__name__}: {exc}"
        raise ConfigurationError(source=path, value=reason, expected="a configuration file without errors") from exc
    yield from _sections(config, ())


def _sections(config: Mapping[str, object], above: tuple[str, ...]) -> Iterator[tuple[str, str, object]]:
    from traitlets.config.loader import Config, LazyConfigValue

    for name, value in config.items():
        if isinstance(value, Config):
            yield from _sections(value, (*above, name))
        elif above:
            # `c.CapsuleKernel.preload.append('numpy')` changes a value that only the trait's owner knows.
            yield ".".join(above), name, value.get_value([]) if isinstance(value, LazyConfigValue) else value


def _as_argument(section: str, name: str, value: object, path: str) -> str:
    """Write another section's value as an argument, the form in which IPython in the worker takes it."""
    if not isinstance(value, str | int | float | bool | list | tuple | dict | set | None):
        expected = "plain values; objects belong into ipython_kernel_config.py of the IPython profile"
        raise ConfigurationError(source=path, name=f"{section}.{name}", value=repr(value), expected=expected)
    return f"--{section}.{name}={value}"
