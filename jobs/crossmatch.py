"""The strangest objects of a catalogue beside any HATS catalogue: their neighbours, as a HATS catalogue of its own."""

import pyarrow as pa

from catalogs.crossmatch import DISTANCE, Matched, Wanted, crossmatch, write
from catalogs.output import table_text
from engine.errors import ConfigError
from engine.storage import Storage
from engine.units import content_hash
from jobs import catalogue
from jobs.config import Place
from jobs.job import JobResult, Options

SHOWN = 10
"""Pairs that are printed."""


def run(options: Options) -> JobResult:
    """Match, write what was found, and print the first pairs."""
    place, given = catalogue.load(options)
    if options.radius_arcsec is None:
        raise ConfigError("no radius given", expected="--radius-arcsec R")
    wanted = Wanted(
        options.other,
        options.radius_arcsec,
        options.neighbors or 1,
        **({"max_rows": options.limit} if options.limit else {}),
        columns=tuple(name for name in options.columns.split(",") if name),
    )
    storage = Storage(place.storage)
    matched = crossmatch(place.uri, storage, Storage(given.other), wanted, options.version)
    path = options.out or path_of(place, matched, wanted)
    if len(matched.pairs):
        write(matched, path, storage, wanted)
    return _result(place, matched, path)


def path_of(place: Place, matched: Matched, wanted: Wanted) -> str:
    """Where it goes unless told otherwise: below the catalogue, under a name that no other match has."""
    which = content_hash(
        [wanted.other, wanted.radius_arcsec, wanted.neighbors, wanted.max_rows, wanted.columns], 4
    )
    return Storage.join(place.uri, "crossmatch", f"{matched.release.version:06d}-{which}")


def _result(place: Place, matched: Matched, path: str) -> JobResult:
    pairs, found = matched.pairs, 0
    if len(pairs):
        assert matched.release.spec is not None
        found = len(pairs.drop_duplicates(list(matched.release.spec.key)))
    summary = {
        "catalogue": place.uri,
        "version": matched.release.version,
        "looked_for": matched.looked_for,
        "matched": found,
        "pairs": len(pairs),
        "crossmatch": path if len(pairs) else None,
    }
    lines = (
        [table_text(pa.Table.from_pandas(pairs, preserve_index=False).to_reader(), SHOWN)] if found else []
    )
    told = f"{found} of {matched.looked_for} objects of version {matched.release.version} have a neighbour"
    median = (
        f", half of them within {pairs[DISTANCE].median():.2g} arcsec" if found else "; nothing is written"
    )
    return JobResult(summary, [*lines, told + median, *([f"crossmatch: {path}"] if found else [])])
