"""Labels as Astronomaly keeps them: CSV with an unnamed index, `score` and `human_label`, -1 where there is none.

The index of ours is the key with slashes (`main/dark/39627835576420141`), which no spreadsheet takes for a number. A
bare TARGETID or object id does as well, and so do columns of the key instead of an index. An empty `human_label` says
nothing; -1 takes a label of the same person back, if there is one. `label_before` is what stood in `human_label` when we
wrote the file: who leaves a label as it was says nothing, it may be another's or a mean over people.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalogs.labels import MAX_LABEL, MIN_LABEL, UNLABELLED
from engine.errors import ConfigError

SEPARATOR = "/"
MAX_PROBLEMS = 5
"""Problems that are told at once."""
BEFORE = "label_before"
"""Column of what `human_label` was when the file was written."""
INTEGERS = ("targetid", "object_id")
"""Columns of keys that are integers; the others are text."""


@dataclass(frozen=True)
class GivenLabel:
    """A label as it was given.

    Parameters
    ----------
    line
        In the file, from 1.
    key
        Column to value; only the last column of the key where the index is a bare number.
    label
        0 to 5, or -1: none.
    before
        The same when the file was written; None where it does not say.
    """

    line: int
    key: dict[str, Any]
    label: float
    before: float | None = None


def read_csv(text: str, key: Sequence[str], where: str) -> list[GivenLabel]:
    """Read labels; rows that say nothing are passed over, -1 is not.

    Parameters
    ----------
    text
        Of the file.
    key
        Columns that name a row of the catalogue.
    where
        Name of the file, for messages.

    Raises
    ------
    ConfigError
        If there is no column `human_label`, nothing that names rows, or lines that cannot be used: the first
        `MAX_PROBLEMS` of them are named.
    """
    try:
        return _read(csv.DictReader(io.StringIO(text, newline="")), key, where)
    except csv.Error as error:
        hint = "Look for a quotation mark that is opened and not closed."
        raise ConfigError(f"is not CSV ({error})", where, hint=hint) from None


def _read(reader: "csv.DictReader[str]", key: Sequence[str], where: str) -> list[GivenLabel]:
    names = list(reader.fieldnames or ())
    if "human_label" not in names:
        raise ConfigError("no column 'human_label'", where, ", ".join(names), "CSV in Astronomaly's layout")
    given: list[GivenLabel] = []
    problems: list[str] = []
    for row in reader:
        try:
            label, before = _label(row, "human_label"), _label(row, BEFORE)
            if label is not None:
                given.append(GivenLabel(reader.line_num, _key(row, key, names[0]), label, before))
        except ValueError as problem:
            problems.append(f"line {reader.line_num}: {problem}")
    problems = problems or _duplicates(given)
    if problems:
        told, more = problems[:MAX_PROBLEMS], len(problems) - MAX_PROBLEMS
        raise ConfigError(
            "labels cannot be used",
            where,
            "\n  ".join(["", *told, *([f"and {more} more"] if more > 0 else [])]),
        )
    return given


def write_csv(rows: Iterable[Mapping[str, Any]], key: Sequence[str]) -> Iterator[str]:
    """Yield lines of rows with the columns of the key, `score` and `human_label` (None: there is none)."""
    yield f",score,human_label,{BEFORE}\n"
    for row in rows:
        label = f"{UNLABELLED if row['human_label'] is None else row['human_label']:g}"
        line = io.StringIO()
        index = SEPARATOR.join(str(row[name]) for name in key)
        csv.writer(line, lineterminator="\n").writerow([index, repr(float(row["score"])), label, label])
        yield line.getvalue()


def _label(row: Mapping[str, str | None], name: str) -> float | None:
    text = row.get(name)
    if text is None or not text.strip():
        return None
    try:
        label = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, no number") from None
    if label != UNLABELLED and not (math.isfinite(label) and MIN_LABEL <= label <= MAX_LABEL):
        raise ValueError(f"{name} is {text}, expected {MIN_LABEL:g} to {MAX_LABEL:g}, or -1 for none")
    return label


def _key(row: Mapping[str, Any], key: Sequence[str], index: str) -> dict[str, Any]:
    if all(row.get(name) for name in key):
        return {name: _value(name, row[name]) for name in key}
    parts = str(row.get(key[-1]) or row[index]).split(SEPARATOR)
    if len(parts) not in (1, len(key)):
        raise ValueError(f"index is {row[index]!r}, expected {SEPARATOR.join(key)} or {key[-1]}")
    return {name: _value(name, part) for name, part in zip(key[-len(parts) :], parts, strict=True)}


def _value(name: str, text: str) -> Any:
    if name not in INTEGERS:
        return text.strip()
    try:
        return int(text)
    except ValueError:
        rounded = "; a spreadsheet has rounded it" if set(text) & set(".eE") else ""
        raise ValueError(f"{name} is {text!r}, no integer{rounded}") from None


def _duplicates(given: Sequence[GivenLabel]) -> list[str]:
    first: dict[tuple[Any, ...], int] = {}
    problems = []
    for one in given:
        name = tuple(one.key.items())
        if name in first:
            shown = SEPARATOR.join(str(value) for value in one.key.values())
            problems.append(f"line {one.line}: {shown} has a label already, in line {first[name]}")
        first.setdefault(name, one.line)
    return problems
