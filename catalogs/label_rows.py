"""Which rows of a catalogue labels belong to: looked up by key, exactly, or refused."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from catalogs.label_csv import MAX_PROBLEMS, SEPARATOR, GivenLabel
from catalogs.labels import UNLABELLED, label_columns
from catalogs.release import Release
from catalogs.spec import CatalogSpec
from catalogs.sql import sql_name, sql_text
from engine.errors import ConfigError
from engine.flags import NOT_SCORED
from engine.locations import is_object
from engine.rows import FLAGS
from engine.schema import arrow_schema, arrow_type, matrix
from engine.storage import Storage

_UNSCORED = f"(c.{FLAGS.name} & {NOT_SCORED.value}) != 0"
"""SQL: the model could not score the row."""


def label_rows(
    release: Release,
    spec: CatalogSpec,
    storage: Storage,
    given: Sequence[GivenLabel],
    who: str,
    reason: str,
    where: str,
) -> pa.Table:
    """Find the objects of labels, and make the rows that `catalogs.labels.append_labels` takes.

    Parameters
    ----------
    release, spec, storage
        The catalogue.
    given
        What was read.
    who, reason
        Who labelled, and why.
    where
        Name of the file, for messages.

    Raises
    ------
    ConfigError
        If an object is not in the catalogue, is there more than once (a bare TARGETID of several surveys), could not
        be scored and so has no place in latent space to learn from, or two lines name the same one.
    """
    columns = label_columns(release, spec)
    num_keys = len(spec.key)
    lines = pa.array([one.line for one in given], pa.int64())
    wanted = [pa.array([one.key.get(c.name) for one in given], arrow_type(c)) for c in columns[:num_keys]]
    keys = pa.table([*wanted, lines], names=[*spec.key, "line"])
    found = _matches(release, spec, storage, keys)
    _check(found, given, spec, where)
    labels = {one.line: one.label for one in given}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    facts = [[labels[line] for line in found["line"].to_pylist()], found["score"].to_pylist()]
    texts = [[text] * len(given) for text in (who, now, reason)]
    rows = pa.table([*(found[name] for name in spec.key), *map(pa.array, facts + texts)],
                    names=[c.name for c in columns[:-1]])  # fmt: skip
    return rows.cast(arrow_schema(columns[:-1]))


def new_rows(rows: pa.Table, mine: Sequence[Mapping[str, Any]], key: Sequence[str]) -> pa.Table:
    """Leave out rows of `label_rows` that say again what the same person's labels in force (`mine`) say."""
    said = {tuple(row[name] for name in key): row["human_label"] for row in mine}
    is_new = [said.get(tuple(row[name] for name in key)) != row["human_label"] for row in rows.to_pylist()]
    return rows.filter(pa.array(is_new, pa.bool_()))


def withdrawn_rows(
    mine: Sequence[Mapping[str, Any]], given: Sequence[GivenLabel], reason: str, where: str
) -> list[dict[str, Any]]:
    """Make the rows that take labels back; nothing of the catalogue is asked, which may not have the object any more.

    Parameters
    ----------
    mine
        Labels of this person that are in force (`catalogs.labels.labels_of`).
    given
        What was read, with a label of -1. Most such rows of a file are objects that never had a label: nothing is
        done about them.
    reason, where
        Why, and the name of the file, for messages.

    Raises
    ------
    ConfigError
        If a line names more than one label.
    """
    now, rows, several = datetime.now(UTC).isoformat(timespec="seconds"), [], []
    for one in given:
        found = [row for row in mine if all(row[name] == value for name, value in one.key.items())]
        several += [f"line {one.line}: {_shown(one)}"] if len(found) > 1 else []
        fresh = {"human_label": UNLABELLED, "labelled_at": now, "reason": reason}
        rows += [{**row, **fresh} for row in found]
    _refuse(several, "lines name more than one label to be taken back", where, "Give the key in full.")
    return rows


def labelled_features(
    release: Release, spec: CatalogSpec, storage: Storage, keys: pa.Table
) -> tuple[np.ndarray, np.ndarray]:
    """Latent coordinates float32 [K', D] of rows given by key [K], and for which the version has some, bool [K]."""
    with _connection(release, storage) as con:
        con.register("wanted", keys.append_column("line", pa.array(np.arange(keys.num_rows))))
        using = " AND ".join(f"c.{sql_name(name)} = w.{sql_name(name)}" for name in spec.key)
        table = con.sql(
            f"SELECT w.line, c.{spec.latent} AS latent FROM {_source(release)} c JOIN wanted w ON {using} "  # noqa: S608
            f"WHERE NOT {_UNSCORED} ORDER BY line"
        ).to_arrow_table()
    is_there = np.zeros(keys.num_rows, bool)
    is_there[table["line"].to_numpy()] = True
    length = next(column.length for column in release.columns if column.name == spec.latent)
    latents = matrix(
        table.cast(pa.schema([("line", pa.int64()), ("latent", pa.list_(pa.float32(), length))])), "latent"
    )
    return latents, is_there


def _matches(release: Release, spec: CatalogSpec, storage: Storage, keys: pa.Table) -> pa.Table:
    """Rows of the catalogue that each line names, in the order of the lines."""
    using = " AND ".join(
        f"(w.{sql_name(name)} IS NULL OR c.{sql_name(name)} = w.{sql_name(name)})" for name in spec.key[:-1]
    )
    last = sql_name(spec.key[-1])
    names = ", ".join(f"c.{sql_name(name)}" for name in spec.key)
    with _connection(release, storage) as con:
        con.register("wanted", keys)
        return con.sql(
            f"SELECT w.line, {names}, CAST(c.{sql_name(spec.score)} AS DOUBLE) AS score, "  # noqa: S608
            f"{_UNSCORED} AS is_unscored "
            f"FROM {_source(release)} c JOIN wanted w ON c.{last} = w.{last}{' AND ' + using if using else ''} "
            "ORDER BY line"
        ).to_arrow_table()


def _check(found: pa.Table, given: Sequence[GivenLabel], spec: CatalogSpec, where: str) -> None:
    lines = found["line"].to_pylist()
    shown = {one.line: _shown(one) for one in given}
    unknown = [f"line {line}: {shown[line]}" for line in sorted(set(shown) - set(lines))]
    _refuse(unknown, "labels name objects that are not in the catalogue", where)
    several = [f"line {line}: {shown[line]}" for line, count in Counter(lines).items() if count > 1]
    hint = f"Give {SEPARATOR.join(spec.key)} in full."
    _refuse(several, "labels name more than one object of the catalogue", where, hint)
    keys = list(zip(*(found[name].to_pylist() for name in spec.key), strict=True))
    counts = Counter(keys)
    twice = [f"line {line}: {shown[line]}" for line, key in zip(lines, keys, strict=True) if counts[key] > 1]
    _refuse(twice, "lines name the same object", where)
    unscored = [
        f"line {line}: {shown[line]}"
        for line, is_it in zip(lines, found["is_unscored"].to_pylist(), strict=True)
        if is_it
    ]
    hint = "Nothing can be learned from them: take these lines out."
    _refuse(unscored, f"labels name objects that could not be scored (flag {NOT_SCORED.name})", where, hint)


def _shown(one: GivenLabel) -> str:
    return SEPARATOR.join(str(value) for value in one.key.values())


def _refuse(problems: list[Any], what: str, where: str, hint: str = "") -> None:
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise ConfigError(what, where, "\n  ".join(["", *problems[:MAX_PROBLEMS], *more]), hint=hint)


@contextmanager
def _connection(release: Release, storage: Storage) -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory(prefix="trawl-labels-") as spill, duckdb.connect() as con:
        con.execute(f"SET temp_directory = {sql_text(spill)}")
        if is_object(release.root):
            con.register_filesystem(storage.filesystem(release.root))
        yield con


def _source(release: Release) -> str:
    files = release.uris("data")
    if not files:
        raise ConfigError("the catalogue has no rows to label", release.root)
    return f"read_parquet([{', '.join(map(sql_text, files))}], hive_partitioning = false)"
