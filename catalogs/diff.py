"""What a version changed: rows that came, rows that went, scores that moved.

It is worked out after the version is published, beside it (`diff.json`, `diff-*.parquet` in the folder of the
version), and once: a job that was killed in between leaves it to the next one. Only files that one of the two
versions has and the other has not are read: a partition that did not change is the same bytes.

Not here: columns other than the score; why a row went (see `rejected`).
"""

import json
import logging
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import pyarrow as pa

from catalogs.options import DiffOptions
from catalogs.release import Release, load_release
from catalogs.spec import CatalogSpec
from catalogs.sql import sql_name, sql_text
from engine.column import Column
from engine.commit import parquet
from engine.commit.manifest import version_numbers
from engine.errors import CommitError
from engine.locations import NotFoundError, is_object
from engine.schema import arrow_schema
from engine.storage import Storage

_log = logging.getLogger(__name__)

CHANGE = Column("change", "string", "added, removed, or changed: the score moved by more than the tolerance")
SCORES = (
    Column("old_score", "float64", "Score in the version before; null if the row was added", nullable=True),
    Column("new_score", "float64", "Score in this version; null if the row was removed", nullable=True),
)


@dataclass(frozen=True, slots=True)
class Diff:
    """How a version differs from the one before it.

    Parameters
    ----------
    version, previous
        What was compared.
    score, tolerance
        Column that was compared, and what it may move by.
    added, removed, changed
        Rows that came, that went, whose score moved by more than the tolerance.
    largest
        Largest movement of a score; 0 if none moved by more than the tolerance or was finite.
    path
        Parquet file with these rows, relative to the root of the catalogue.
    listed
        Rows in it: at most `diff.max_rows`.
    """

    version: int
    previous: int
    score: str
    tolerance: float
    added: int
    removed: int
    changed: int
    largest: float
    path: str
    listed: int

    def __str__(self) -> str:
        moved = f" (at most by {self.largest:.3g})" if self.changed else ""
        return (
            f"{self.added} added, {self.removed} removed, {self.changed} whose {self.score} moved by more than "
            f"{self.tolerance:g}{moved} since version {self.previous}"
        )


def write_diff(root: str, storage: Storage, version: int, options: DiffOptions) -> Diff | None:
    """Compare a version with the one before it and write down what changed, unless that was done.

    Parameters
    ----------
    root, storage
        The catalogue.
    version
        The newer of the two.
    options
        Tolerance, and how many rows are listed.

    Returns
    -------
    diff
        None if there is nothing to compare: the first version, one whose predecessor was pruned, is of another kind or
        has a damaged file that the comparison needs (the log says so).
    """
    release = load_release(root, storage, version)
    if done := read_diff(release, storage):
        return done
    previous = release.manifest.previous
    if release.spec is None or previous not in version_numbers(root, storage):
        return None
    before = load_release(root, storage, previous)
    if before.spec is None or before.spec.name != release.spec.name:
        return None
    if before.manifest.publish_id == release.manifest.publish_id:
        before = release  # a repair: the content is the same, and the files before are damaged
    try:
        table, facts = _compare(before, release, release.spec, storage, options)
    except (duckdb.IOException, duckdb.InvalidInputException) as error:  # missing; not Parquet
        _log.warning(
            "no diff: version %d or %d cannot be read: %s", previous, version, str(error).split("\n")[0]
        )
        return None
    path = f"{release.manifest.path}/diff-{secrets.token_hex(6)}.parquet"
    storage.put(storage.join(root, path), parquet.to_bytes(table))
    diff = Diff(
        version, previous, release.spec.score, options.tolerance, path=path, listed=table.num_rows, **facts
    )
    if storage.put_if_absent(_record(release), json.dumps(asdict(diff), sort_keys=True).encode()):
        return diff
    return read_diff(release, storage)


def read_diff(release: Release, storage: Storage) -> Diff | None:
    """Return what was written down about a version, None if nothing was.

    Raises
    ------
    CommitError
        If it is not such a record.
    """
    uri = _record(release)
    try:
        return Diff(**json.loads(storage.read(uri)))
    except NotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise CommitError(f"not the record of a difference ({error})", uri) from error


def diff_uris(release: Release, storage: Storage) -> list[str]:
    """Files of the difference, the table first; empty if nothing was written down."""
    diff = read_diff(release, storage)
    return [Storage.join(release.root, diff.path), _record(release)] if diff else []


def diff_schema(release: Release, spec: CatalogSpec) -> pa.Schema:
    """Columns of the table: the key, what happened to the row, its scores."""
    named = {column.name: column for column in release.columns}
    return arrow_schema([*(named[name] for name in spec.key), CHANGE, *SCORES])


def _record(release: Release) -> str:
    return Storage.join(release.root, release.manifest.path, "diff.json")


def _compare(
    before: Release, after: Release, spec: CatalogSpec, storage: Storage, options: DiffOptions
) -> tuple[pa.Table, dict[str, Any]]:
    """Return the rows that differ, and their numbers."""
    schema = diff_schema(after, spec)
    keys = ", ".join(map(sql_name, spec.key))
    with tempfile.TemporaryDirectory(prefix="trawl-diff-") as spill, duckdb.connect() as con:
        con.execute(f"SET temp_directory = {sql_text(spill)}")
        if is_object(after.root):
            con.register_filesystem(storage.filesystem(after.root))
        for name, one, other in (("old", before, after), ("new", after, before)):
            con.execute(_view(name, spec, schema, _only_in(one, other)))
        con.execute(_difference(keys), {"tolerance": options.tolerance})
        order = f"change, abs(new_score - old_score) DESC, {keys}"
        rows = con.sql(f"SELECT * FROM difference ORDER BY {order} LIMIT {options.max_rows}")  # noqa: S608
        return rows.to_arrow_table().cast(schema), _facts(con)


def _only_in(one: Release, other: Release) -> list[str]:
    """Return the data files of a version whose bytes the other has not."""
    shared = {file.sha256 for file in other.files("data")}
    return [one.uri(file) for file in one.files("data") if file.sha256 not in shared]


def _view(name: str, spec: CatalogSpec, schema: pa.Schema, uris: Sequence[str]) -> str:
    """Key and score of some files; no row if there is no file."""
    keys = ", ".join(map(sql_name, spec.key))
    if uris:
        files = ", ".join(map(sql_text, uris))
        columns = f"{keys}, CAST({sql_name(spec.score)} AS DOUBLE) AS score"
        source = f"read_parquet([{files}], hive_partitioning = false)"
        return f"CREATE VIEW {name} AS SELECT {columns}, true AS there FROM {source}"  # noqa: S608 - quoted
    types = {pa.int64(): "BIGINT", pa.string(): "VARCHAR"}
    nulls = (f"CAST(NULL AS {types[schema.field(key).type]}) AS {sql_name(key)}" for key in spec.key)
    return f"CREATE VIEW {name} AS SELECT {', '.join(nulls)}, 0.0::DOUBLE AS score, true AS there WHERE false"


def _difference(keys: str) -> str:
    # A score that is not a number differs from all numbers, and not from another that is none.
    return f"""
        CREATE TEMP TABLE difference AS
        SELECT {keys},
            CASE WHEN old.there IS NULL THEN 'added' WHEN new.there IS NULL THEN 'removed' ELSE 'changed' END AS change,
            old.score AS old_score, new.score AS new_score
        FROM old FULL JOIN new USING ({keys})
        WHERE old.there IS NULL OR new.there IS NULL
            OR (old.score IS DISTINCT FROM new.score
                AND NOT coalesce(abs(new.score - old.score) <= $tolerance, false))
    """  # noqa: S608 - names of our own


def _facts(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    counts = dict(con.execute("SELECT change, count(*) FROM difference GROUP BY change").fetchall())
    moved = "SELECT max(abs(new_score - old_score)) FROM difference WHERE isfinite(new_score - old_score)"
    ((largest,),) = con.execute(moved).fetchall()
    return {
        "added": counts.get("added", 0),
        "removed": counts.get("removed", 0),
        "changed": counts.get("changed", 0),
        "largest": largest or 0.0,
    }
