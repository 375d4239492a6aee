"""Open a version of a catalogue in DuckDB: one call, typed views, and nothing else of the machine in reach.

A reader goes versions -> manifest -> list of files, never through a glob, so that files of other versions
and of failed attempts cannot be seen. After the views are made the connection can read the files of this
version, and what the caller has allowed by name, and no others: no other file, no network, no extension, no settings.

Not here: joins between catalogues, writing.
"""

import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from catalogs.diff import diff_schema, diff_uris
from catalogs.labels import current_labels_sql, label_columns, label_versions
from catalogs.outliers import create_outlier_rates
from catalogs.release import Release, VersionFacts, load_release, version_facts
from catalogs.reranks import DEFAULT_METHOD, newest_rerank, rerank_columns, rerank_uris, reranked_sql
from catalogs.spec import CatalogSpec
from catalogs.sql import sql_name, sql_text
from catalogs.tracks import track_schema, track_uris
from engine.errors import ConfigError
from engine.flags import FLAGS
from engine.locations import canonical, is_object
from engine.schema import arrow_schema
from engine.stage import REJECTED
from engine.storage import Storage, StorageOptions

BATCH_ROWS = 10_000
"""Rows that `run_query` hands on at once."""

_SQL_TYPES = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
}

_SETTINGS = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET allow_persistent_secrets = false",
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)

_EXPLAIN = re.compile(r"\s*explain(\s+analyze)?\s+(?=\w)", re.IGNORECASE)

_READS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}


def open_catalog(
    uri: str,
    storage_options: StorageOptions | None = None,
    version: int | None = None,
    allow: Sequence[str] = (),
) -> duckdb.DuckDBPyConnection:
    """Open one version of a catalogue in DuckDB.

    Views: `catalog` (the published rows, declared columns and types), `ranked` (the same with
    its rank, such as `anomaly_rank`: 1 is the most anomalous; it sorts the catalogue, so ask `catalog` where the rank does not matter),
    `rejected`, `diff` (what the version changed: rows `added`, `removed`, or with a score that `changed`),
    `versions` (one row a version), `labels` (what people said of objects), `reranked` (the rows by the newest ranks
    that were made of labels; empty without), `tracks` (paths through latent space, once a report was made), and `outlier_rates` (how often the rows of each fibre, petal, tile and night are
    among the top 1 % of scores, with exact intervals). Macros: `outlier_rates(fraction)`; `top(n)` gives the first n rows of `ranked`
    without sorting all; `has_flag(flags, 'NAME')`; `flag_names(flags)`.

    Parameters
    ----------
    uri
        Root of the catalogue: a folder or `s3://bucket/prefix`.
    storage_options
        How to reach object storage.
    version
        Number of the version; the newest if None.
    allow
        Files and folders besides, which SQL may read too: `read_parquet('/data/mine.parquet')`.

    Returns
    -------
    connection
        In memory and locked: of all files it reads those of this version and those allowed, it installs nothing and
        its settings are fixed. It is for your own code, which could write into an allowed folder; text of users goes
        through `run_query`.

    Raises
    ------
    CommitError
        If there is no such catalogue or version.
    ConfigError
        If there is nothing at a place that is allowed.
    StorageError
        If such a place is neither a local path nor an `s3://` URI.
    """
    storage = Storage(storage_options or StorageOptions())
    release = load_release(uri, storage, version)
    return connect_release(release, version_facts(uri, storage), storage, allow)


def connect_release(
    release: Release, versions: Sequence[VersionFacts], storage: Storage, allow: Sequence[str] = ()
) -> duckdb.DuckDBPyConnection:
    """Open a release that has been loaded; see `open_catalog`."""
    files, folders = _allowed(allow, storage)
    con = duckdb.connect()
    if objects := [uri for uri in (release.root, *files, *folders) if is_object(uri)]:
        con.register_filesystem(storage.filesystem(objects[0]))
    data, rejected = release.uris("data"), release.uris("rejected")
    _create_view(con, "catalog", arrow_schema(release.columns), data)
    _create_view(con, "rejected", arrow_schema(REJECTED), rejected)
    _create_versions(con, versions, release.version)
    changed: list[str] = []
    if release.spec:
        _create_ranking(con, release.spec)
        create_outlier_rates(con, release.spec, frozenset(column.name for column in release.columns))
        changed = diff_uris(release, storage)[:1]
        _create_view(con, "diff", diff_schema(release, release.spec), changed)
        changed += _create_labels(con, release, release.spec, storage)
        changed += _create_tracks(con, release, storage)
    _create_macros(con)
    _lock(con, [*data, *rejected, *changed, *files], folders)
    return con


def _allowed(places: Sequence[str], storage: Storage) -> tuple[list[str], list[str]]:
    """Return which of these places are files and which folders; `ConfigError` if one is neither."""
    files, folders = list[str](), list[str]()
    for uri in (canonical(place).rstrip("/") for place in places):
        inside = next(storage.list(uri), None)
        if inside and inside.uri != uri:
            folders.append(uri)
        elif inside or storage.exists(uri):
            files.append(uri)
        else:
            raise ConfigError("nothing there that a query could read", "--allow", uri, "a file or a folder")
    return files, folders


def run_query(con: duckdb.DuckDBPyConnection, sql: str) -> pa.RecordBatchReader:
    """Run one statement that reads.

    Parameters
    ----------
    con
        Connection of `open_catalog`.
    sql
        One SELECT (also WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE) or EXPLAIN of one.

    Returns
    -------
    reader
        The result in batches of `BATCH_ROWS` rows; computed as it is read.

    Raises
    ------
    ConfigError
        If the text is not one statement that reads, or DuckDB cannot run it.
    """
    _check_statement(con, sql)
    try:
        reader = con.sql(sql).to_arrow_reader(BATCH_ROWS)
    except duckdb.Error as error:
        raise _query_error(error) from None
    return pa.RecordBatchReader.from_batches(reader.schema, _batches(reader))


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except (duckdb.Error, pa.ArrowException, OSError) as error:  # DuckDB's own errors cross Arrow as OSError
        raise _query_error(error) from None


def _query_error(error: Exception) -> ConfigError:
    first_part = " ".join(str(error).split("\n\nLINE ")[0].split())  # what follows repeats the query
    return ConfigError(f"query failed: {first_part}", hint='"DESCRIBE catalog" lists the columns.')


def _check_statement(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    try:
        statements = con.extract_statements(sql)
    except duckdb.Error as error:
        raise ConfigError(f"query is not SQL: {str(error).split(chr(10))[0]}") from None
    kinds = [statement.type for statement in statements]
    if len(kinds) != 1 or kinds[0] not in _READS:
        got = ", ".join(str(kind).rpartition(".")[2] for kind in kinds) or "nothing"
        raise ConfigError("query is not one statement that reads", got=got, expected="one SELECT")
    if statements[0].named_parameters:
        raise ConfigError("query has parameters", got=str(sorted(statements[0].named_parameters)))
    if kinds[0] == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains, so that must be a statement that reads, too.
        explain = _EXPLAIN.match(sql)
        if explain is None:
            raise ConfigError("query is not plain EXPLAIN", expected="EXPLAIN [ANALYZE] SELECT ...")
        _check_statement(con, sql[explain.end() :])


def _create_view(con: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, uris: Sequence[str]) -> None:
    casts = ", ".join(
        f"CAST({sql_name(f.name)} AS {_sql_type(f.type)}) AS {sql_name(f.name)}" for f in schema
    )
    nulls = ", ".join(f"CAST(NULL AS {_sql_type(f.type)}) AS {sql_name(f.name)}" for f in schema)
    if uris:
        files = ", ".join(sql_text(uri) for uri in uris)
        body = f"SELECT {casts} FROM read_parquet([{files}], hive_partitioning = false)"  # noqa: S608 - quoted
    else:
        body = f"SELECT {nulls} WHERE false"
    con.execute(f"CREATE VIEW {name} AS {body}")
    for field in schema:
        facts = field.metadata or {}
        unit = facts.get(b"unit", b"").decode()
        comment = facts.get(b"description", b"").decode() + (f" [{unit}]" if unit else "")
        con.execute(f"COMMENT ON COLUMN {name}.{sql_name(field.name)} IS {sql_text(comment)}")


def _create_versions(con: duckdb.DuckDBPyConnection, versions: Sequence[VersionFacts], opened: int) -> None:
    con.execute(
        "CREATE TABLE versions (version INTEGER, created_utc TIMESTAMP, num_rows BIGINT, num_rejected BIGINT, "
        "checkpoint_ids VARCHAR[], publish_id VARCHAR, is_open BOOLEAN)"
    )
    for v in versions:
        row = [v.version, v.created_utc, v.num_rows, v.num_rejected, list(v.checkpoint_ids), v.publish_id]
        con.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?)", [*row, v.version == opened])


def _create_tracks(con: duckdb.DuckDBPyConnection, release: Release, storage: Storage) -> list[str]:
    """Make the view `tracks`; return the files that it reads."""
    files = track_uris(release, storage)
    _create_view(con, "tracks", track_schema(), files)
    return files


def _create_labels(
    con: duckdb.DuckDBPyConnection, release: Release, spec: CatalogSpec, storage: Storage
) -> list[str]:
    """Make the views `labels` and `reranked`; return the files that they read."""
    given = [version.uri for version in label_versions(release.root, storage)]
    _create_view(con, "labels", arrow_schema(label_columns(release, spec)), given)
    rerank = newest_rerank(release, storage)
    method, files = rerank.method if rerank else DEFAULT_METHOD, rerank_uris(release, rerank)
    _create_view(con, "rerank_rows", arrow_schema(rerank_columns(release, spec, method)), files)
    con.execute(f"CREATE VIEW reranked AS {reranked_sql(spec.key, method, current_labels_sql(spec.key))}")
    return given + files


def _create_ranking(con: duckdb.DuckDBPyConnection, spec: CatalogSpec) -> None:
    # DuckDB sorts NaN above all numbers; a score that is not a number has no rank.
    score, order = spec.score, ", ".join([f"{spec.score} DESC", *spec.key])
    rank = f"row_number() OVER (ORDER BY {order}) AS {spec.rank}"
    con.execute(f"CREATE VIEW ranked AS SELECT {rank}, * FROM catalog WHERE isfinite({score})")  # noqa: S608
    con.execute(
        f"CREATE MACRO top(n) AS TABLE SELECT {rank}, * FROM "  # noqa: S608 - names of our own
        f"(SELECT * FROM catalog WHERE isfinite({score}) ORDER BY {order} LIMIT n) ORDER BY {spec.rank}"
    )


def _create_macros(con: duckdb.DuckDBPyConnection) -> None:
    bits = ", ".join(f"{sql_text(flag.name)}: {flag.value}" for flag in FLAGS)
    known = ", ".join(flag.name for flag in FLAGS)
    unknown = f"error('unknown flag ' || name || '; known: ' || {sql_text(known)})"
    con.execute(
        f"CREATE MACRO has_flag(flags, name) AS flags & coalesce(MAP {{{bits}}}[name], {unknown}) != 0"
    )
    names = ", ".join(f"CASE WHEN flags & {flag.value} != 0 THEN {sql_text(flag.name)} END" for flag in FLAGS)
    con.execute(f"CREATE MACRO flag_names(flags) AS list_filter([{names}], lambda name: name IS NOT NULL)")


def _lock(con: duckdb.DuckDBPyConnection, uris: Sequence[str], folders: Sequence[str]) -> None:
    spill = Path(tempfile.gettempdir()) / f"trawl-query-{uuid.uuid4().hex}"
    con.execute(f"SET temp_directory = {sql_text(str(spill))}")  # made when needed, removed on close
    for setting, allowed in (("allowed_paths", uris), ("allowed_directories", folders)):
        con.execute(f"SET {setting} = [{', '.join(map(sql_text, allowed))}]")
    for setting in _SETTINGS:
        con.execute(setting)


def _sql_type(dtype: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(dtype):
        return f"{_SQL_TYPES[dtype.value_type]}[{dtype.list_size}]"
    if pa.types.is_list(dtype):
        return f"{_SQL_TYPES[dtype.value_type]}[]"
    if pa.types.is_fixed_size_binary(dtype):
        return "BLOB"
    return _SQL_TYPES[dtype]
