"""SQL on a catalogue: views `catalog`, `ranked`, `rejected`, `versions`; macros `top`, `has_flag`, `flag_names`."""

from collections.abc import Iterator, Sequence
from itertools import islice

from catalogs.output import json_lines, table_text
from catalogs.query import open_catalog, run_query
from jobs import catalogue
from jobs.config import Place
from jobs.job import JobResult, Options

DEFAULT_ROWS = 1000


def run(options: Options) -> JobResult:
    """Run one SELECT and print what it gives."""
    place, _ = catalogue.load(options)
    if options.json:
        return JobResult({}, json_lines=_json_lines(place, options))
    return JobResult(
        {}, [table(place, options.sql, options.limit or DEFAULT_ROWS, options.version, options.allow)]
    )


def table(
    place: Place,
    sql: str,
    max_rows: int = DEFAULT_ROWS,
    version: int | None = None,
    allow: Sequence[str] = (),
) -> str:
    """Lay out what a SELECT gives as text."""
    with open_catalog(place.uri, place.storage, version, allow) as connection:
        return table_text(run_query(connection, sql), max_rows)


def _json_lines(place: Place, options: Options) -> Iterator[str]:
    """Rows as they are printed: a result may be larger than memory."""
    with open_catalog(place.uri, place.storage, options.version, options.allow) as connection:
        yield from islice(json_lines(run_query(connection, options.sql)), options.limit)
