"""Capsule's error tree: every error of ours has fields, and makes its text in `__str__`; nobody parses the text.

An error says what was wrong, with what value, and what to do. It knows nothing about how it is shown.
"""


class CapsuleError(Exception):
    """Root of all errors that Capsule raises on purpose."""


class ConfigurationError(CapsuleError):
    """A setting, an argument or a configuration file cannot be used.

    Attributes:
        source: where it comes from: the argument as typed, or the path of the file.
        name: the setting, for example `CapsuleKernel.preload`; empty when the whole source is meant.
        value: what was given, as text; empty when there is none.
        expected: what would be right, in words.
    """

    def __init__(self, *, source: str, name: str = "", value: str = "", expected: str) -> None:
        super().__init__(source, name, value, expected)
        self.source = source
        self.name = name
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        where = f"{self.source}: {self.name}" if self.name and self.name not in self.source else self.source
        given = f" = {self.value}" if self.value and self.value not in self.source else ""
        return f"{where}{given}: expected {self.expected}"
