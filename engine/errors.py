"""Errors that a user sees: what failed, where, what was found, what was expected, what to do.

Everything is put into the text as well as the attributes, because Ray Data hands on only the text. What stands
before the host of a URL, where some write credentials, is left out of the text.
"""

import re

_BEFORE_HOST = re.compile(r"(?<=://)[^/@\s]+@")


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose.

    Parameters
    ----------
    what
        One sentence: what failed.
    where
        URI, TARGETID, HDU, column or configuration key.
    got, expected
        The value found and the value wanted, as text.
    hint
        What the user can do about it.
    """

    def __init__(self, what: str, where: str = "", got: str = "", expected: str = "", hint: str = "") -> None:
        super().__init__(what, where, got, expected, hint)
        self.what, self.where, self.got, self.expected, self.hint = what, where, got, expected, hint

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        parts += [f"got {self.got}"] if self.got else []
        parts += [f"expected {self.expected}"] if self.expected else []
        text = "; ".join(parts)
        return _BEFORE_HOST.sub("***@", f"{text}. {self.hint}" if self.hint else text)


class ConfigError(EngineError):
    """The configuration cannot be used; nothing was started."""


class StorageError(EngineError):
    """A bucket, folder or object cannot be reached, read or written."""


class SourceError(EngineError):
    """An input file or object cannot be used; becomes a row of `rejected`.

    `reason` is a code from `engine.flags.REASONS`.
    """

    def __init__(
        self,
        what: str,
        where: str = "",
        got: str = "",
        expected: str = "",
        hint: str = "",
        reason: str = "unreadable_file",
    ) -> None:
        super().__init__(what, where, got, expected, hint)
        self.args = (what, where, got, expected, hint, reason)
        self.reason = reason


class SchemaError(EngineError):
    """A table does not have the columns that were declared."""


class CheckpointError(EngineError):
    """A checkpoint is missing, damaged, or was made for something else."""


class CommitError(EngineError):
    """A fragment, ledger or version disagrees with what was promised."""


class SupersededError(CommitError):
    """Another job published a version that the one to be published does not know of."""


class ResourceError(EngineError):
    """The cluster cannot give what a stage asks for."""
