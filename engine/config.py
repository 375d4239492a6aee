"""Configuration: TOML into one frozen tree, unknown keys refused, all problems told at once."""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from engine.errors import ConfigError

CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
"""Variables that hold them."""

_SECRET = re.compile(r"secret|token|password|credential|access_key", re.IGNORECASE)


class Config(BaseModel):
    """Base of all configuration classes: frozen, keyword-only, no unknown keys."""

    chosen_by_name: ClassVar[Mapping[str, tuple[type[BaseModel], ...]]] = {}
    """Field to the classes that it may hold, one of which another field chooses: their keys are known as well."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, use_attribute_docstrings=True, allow_inf_nan=False
    )


C = TypeVar("C", bound=BaseModel)


def load(cls: type[C], path: str, overrides: Sequence[str] = ()) -> C:
    """Read a TOML file, apply `key.sub=value` overrides (values are TOML), and validate.

    Raises
    ------
    ConfigError
        Naming file, key, the value found, what is allowed, and the nearest known key.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", path) from None
    return parse(cls, text, path, overrides)


def parse(cls: type[C], text: str, where: str, overrides: Sequence[str] = ()) -> C:
    """`load` for a text that was read from `where` already.

    Raises
    ------
    ConfigError
        As `load` does.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not TOML: {error}", where) from None
    return validate(cls, parse_overrides(overrides, tree), where)


def parse_overrides(overrides: Sequence[str], tree: dict[str, Any] | None = None) -> dict[str, Any]:
    """Set `key.sub=value` lines in nested dicts (new ones by default); values are TOML or bare text."""
    tree = {} if tree is None else tree
    for override in overrides:
        _apply(tree, override)
    return tree


def validate(cls: type[C], tree: Mapping[str, Any], where: str) -> C:
    """Build `cls` from nested dicts; all problems in one `ConfigError`."""
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        lines = [_describe(cls, problem) for problem in error.errors()]
        raise ConfigError("\n  ".join(["configuration is not valid", *lines]), where) from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError("override has no value", f"-o {override}", expected="-o key.sub=value")
    *parents, last = key.strip().split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"'{parent}' is a value, not a section", f"-o {override}")
    tree[last] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word or URI: the shell has eaten the quotes


def _describe(cls: type[BaseModel], problem: ErrorDetails) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *section, key = problem["loc"]
        if _SECRET.search(str(key)):
            return f"{where}: unknown key; credentials come from the environment alone ({CREDENTIALS})"
        near = difflib.get_close_matches(str(key), _known_keys(cls, section), 1)
        return f"{where}: unknown key" + (f" (did you mean '{near[0]}'?)" if near else "")
    if problem["type"] == "missing":
        return f"{where}: required, not given"
    return f"{where}: {problem['msg']} (got {problem['input']!r})"


def _known_keys(cls: type[BaseModel], section: Sequence[str | int]) -> list[str]:
    """Keys of one section of a tree, given by the keys that lead to it."""
    classes = [cls]
    for name in section:
        classes = [inner for outer in classes for inner in _classes_of(outer, str(name))]
    return [key for found in classes for key in found.model_fields]


def _classes_of(cls: type[BaseModel], name: str) -> list[type[BaseModel]]:
    """Classes that a field may hold."""
    if name not in cls.model_fields:
        return [cls]  # the index of a list
    annotation = cls.model_fields[name].annotation
    options = [annotation, *getattr(annotation, "__args__", ())]
    chosen = getattr(cls, "chosen_by_name", {}).get(name, ())
    return [item for item in (*options, *chosen) if isinstance(item, type) and issubclass(item, BaseModel)]
