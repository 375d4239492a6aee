"""A tree of settings as TOML: what `tomllib` reads, written."""

import json
from collections.abc import Mapping
from typing import Any


def to_toml(tree: Mapping[str, Any]) -> str:
    """Write nested dicts as TOML, sections after plain values; what is None is left out.

    Raises
    ------
    TypeError
        If a value is nothing that TOML has.
    """
    return "\n".join(_lines(tree, ())).strip() + "\n"


def _lines(tree: Mapping[str, Any], section: tuple[str, ...]) -> list[str]:
    plain = {
        key: value for key, value in tree.items() if value is not None and not isinstance(value, Mapping)
    }
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    if section and (lines or not tree):
        lines = ["", f"[{'.'.join(map(_key, section))}]", *lines]
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines += _lines(value, (*section, key))
    return lines


def _key(text: str) -> str:
    is_bare = text and all(char.isascii() and (char.isalnum() or char in "_-") for char in text)
    return text if is_bare else json.dumps(text)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)  # also inf and nan, which TOML has
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items() if v is not None)}}}"
    raise TypeError(f"TOML has no {type(value).__name__}")
