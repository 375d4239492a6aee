"""SQL on a catalogue: views `catalog`, `ranked`, `rejected`, `versions`; macros `top`, `has_flag`, `flag_names`."""

from catalogs.output import json_lines, table_text
from catalogs.query import open_catalog, run_query
from jobs import catalogue
from jobs.job import JobResult, Options

DEFAULT_ROWS = 1000


def run(options: Options) -> JobResult:
    """Run one SELECT and print what it gives."""
    place, _ = catalogue.load(options)
    with open_catalog(place.uri, place.storage, options.version) as connection:
        result = run_query(connection, options.sql)
        if options.json:
            lines = list(json_lines(result))[: options.limit]
            return JobResult({}, json_text="\n".join(lines))
        return JobResult({}, [table_text(result, options.limit or DEFAULT_ROWS)])
