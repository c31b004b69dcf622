"""What the command says, and to whom: the process's own streams, and texts that must not drive a terminal.

Names, prompts and labels come from notebooks: shown raw, they could set titles, clear the screen or forge a line. Only
what a cell itself puts out goes through as it is.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from typing import Any, TextIO

import msgspec

from capsule_kernel.errors import AnswerMissing, OutputUnavailable, ReaderGone

# "Explicit directional formatting" (unicode.org, UAX 9): they let a text be read in another order than it stands.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Controls; halves of surrogate pairs; the separators of lines and paragraphs.
_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    """Return a text in which characters that drive a terminal, or turn the order of others, are shown escaped."""
    if text.isprintable():
        return text
    return "".join(_escaped(each) if _is_driving(each) else each for each in text)


def all_printable[T](value: T) -> T:
    """Return a value of texts, lists, dictionaries and structs with all its texts `printable`."""
    return _all_printable(value)  # type: ignore[no-any-return]  # the same type as it came


def open_streams() -> None:
    """Have standard input, output and error: one that was closed is `/dev/null`; what one cannot encode is escaped.

    Otherwise the next file that is opened would be taken for the stream, by this process or by a kernel.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            file = os.open(os.devnull, os.O_RDWR)
            assert file == number  # the lowest that is free: those below are open
            os.set_inheritable(file, True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - lives as long as we do
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Print a line, made `printable`.

    Raises:
        OutputUnavailable: standard output cannot be written.
    """
    emit(printable(line))


def emit(text: str) -> None:
    """Print lines as they are: outputs of cells, what was made `printable` before.

    Raises:
        OutputUnavailable: standard output cannot be written.
    """
    try:
        sys.stdout.write(f"{text}\n")
    except OSError as exc:
        raise _lost(exc) from exc


def emit_json(value: Any) -> None:
    """Print a value of structs, lists and dictionaries as JSON that is valid in the encoding of standard output.

    Raises:
        OutputUnavailable: standard output cannot be written.
    """
    text = msgspec.json.encode(value).decode()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # The stream's own escapes (`\xe9`) are not those of JSON.
        text = json.dumps(msgspec.json.decode(text))
    emit(text)


def flush() -> None:
    """Have all that was printed be written.

    Raises:
        OutputUnavailable: it cannot be.
    """
    try:
        sys.stdout.flush()
    except OSError as exc:
        raise _lost(exc) from exc


def warn(line: str) -> None:
    """Print a line on standard error, made `printable`; where that cannot be written, nobody can be told."""
    try:
        sys.stderr.write(f"{printable(line)}\n")
        sys.stderr.flush()
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere: Python would try to write it once more at its end, and complain."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # it is none of the process's
        return
    file = os.open(os.devnull, os.O_WRONLY)
    os.dup2(file, number)
    os.close(file)


def answer_to(question_id: str, prompt: str, *, is_secret: bool) -> str:
    """Return a line of standard input; a terminal is asked for it.

    Raises:
        AnswerMissing: there is none.
    """
    try:
        if not sys.stdin.isatty():
            text = _line()
        elif is_secret:
            import getpass

            text = getpass.getpass(printable(prompt))
        else:
            text = input(printable(prompt))
    except EOFError as exc:
        raise AnswerMissing(question_id, "standard input ended before a line came") from exc
    except UnicodeDecodeError as exc:
        raise AnswerMissing(question_id, f"what came on standard input is no {exc.encoding} text") from exc
    if not is_text(text):
        raise AnswerMissing(question_id, "what came on standard input is no utf-8 text")
    return text


def is_text(argument: str) -> bool:
    """Whether what came from outside is UTF-8: Python takes other bytes for halves of surrogate pairs."""
    return not any("\ud800" <= each <= "\udfff" for each in argument)


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _lost(exc: OSError) -> OutputUnavailable:
    silence(sys.stdout)
    kind = ReaderGone if isinstance(exc, BrokenPipeError) else OutputUnavailable
    return kind(exc.strerror or str(exc))


def _is_driving(character: str) -> bool:
    return character in _DIRECTIONS or unicodedata.category(character) in _CATEGORIES


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _all_printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_all_printable(key): _all_printable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_all_printable, value))
    if isinstance(value, msgspec.Struct):
        fields = {name: _all_printable(getattr(value, name)) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **fields)
    return value
