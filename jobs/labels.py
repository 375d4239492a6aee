"""Labels of people in and out of a catalogue, as CSV in Astronomaly's layout; without a file: what there is."""

import getpass
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from catalogs.label_csv import read_csv, write_csv
from catalogs.label_rows import label_rows, new_rows, withdrawn_rows
from catalogs.labels import UNLABELLED, append_labels, current_labels_sql, labels_of, read_labels
from catalogs.query import open_catalog
from catalogs.release import Release, load_release
from catalogs.reranks import newest_rerank
from catalogs.spec import CatalogSpec
from engine.errors import ConfigError
from engine.storage import Storage, canonical
from jobs import catalogue
from jobs.config import Place
from jobs.job import JobResult, Options

DEFAULT_ROWS = 200
"""Objects without a label in a file to be filled in."""


def run(options: Options) -> JobResult:
    """Add the labels of `--labels`, write those in force to `--out`, or list the submissions."""
    place, _ = catalogue.load(options)
    if options.labels:
        return add(place, options)
    return export(place, options) if options.out else overview(place, options)


def opened(place: Place, version: int | None) -> tuple[Release, CatalogSpec]:
    """Look up a version of a catalogue that objects can be labelled in."""
    release = load_release(place.uri, Storage(place.storage), version)
    if release.spec is None:
        raise ConfigError("has no scores", place.uri, expected="a catalogue, not staged spectra")
    return release, release.spec


def add(place: Place, options: Options) -> JobResult:
    """Add what is new in the labels of a file; all of it or, if a line cannot be used, nothing."""
    release, spec = opened(place, options.version)
    storage = Storage(place.storage)
    who = options.who or _user()
    found = _submission(release, spec, storage, options, who)
    number = append_labels(release, spec, storage, found.rows) if found.rows.num_rows else None
    num_labels = found.rows.num_rows - found.num_back
    summary = {"catalogue": place.uri, "labels": num_labels, "taken_back": found.num_back,
               "unchanged": found.num_unchanged, "label_version": number}  # fmt: skip
    said = f"{num_labels} of {who}" + (f", {found.num_back} taken back" if found.num_back else "")
    said += f", {found.num_unchanged} unchanged" if found.num_unchanged else ""
    return JobResult(summary, [f"labels: {said}, {f'submission {number}' if number else 'nothing new'}"])


class _Submission(NamedTuple):
    """Rows to be added, the last of them labels that are taken back, how many these are, and lines that say nothing new."""

    rows: pa.Table
    num_back: int
    num_unchanged: int


def _submission(
    release: Release, spec: CatalogSpec, storage: Storage, options: Options, who: str
) -> _Submission:
    where = options.labels
    given = read_csv(_text(where, storage), spec.key, where)
    told = [one for one in given if one.label != one.before]
    none = [one for one in told if one.label == UNLABELLED]
    some = [one for one in told if one.label != UNLABELLED]
    mine = labels_of(read_labels(release, spec, storage), spec.key, who)
    back = withdrawn_rows(mine, none, options.why, where)
    if not back and all(one.label == UNLABELLED for one in given):
        expected = f"human_label of 0 to 5 in some rows, or -1 where {who} gave one before"
        raise ConfigError("holds no labels", where, expected=expected)
    found = label_rows(release, spec, storage, some, who, options.why, where)
    rows = new_rows(found, mine, spec.key)
    kept = [one for one in given if one.label == one.before != UNLABELLED]
    num_unchanged = len(kept) + found.num_rows - rows.num_rows
    return _Submission(
        pa.concat_tables([rows, pa.Table.from_pylist(back, rows.schema)]), len(back), num_unchanged
    )


def export(place: Place, options: Options) -> JobResult:
    """Write the labels in force, and the first objects that have none, by their newest rank."""
    release, spec = opened(place, options.version)
    storage = Storage(place.storage)
    view, rank = ("reranked", "rerank") if newest_rerank(release, storage) else ("ranked", spec.rank)
    keys, limit = ", ".join(spec.key), options.limit or DEFAULT_ROWS
    columns = f"{', '.join(f'c.{name}' for name in spec.key)}, c.{spec.score} AS score"
    in_force = current_labels_sql(spec.key)
    labelled = f"SELECT {columns}, l.human_label FROM ({in_force}) l JOIN catalog c USING ({keys})"  # noqa: S608
    fresh = (
        f"SELECT {columns}, NULL::DOUBLE FROM {view} c ANTI JOIN ({in_force}) l USING ({keys}) "  # noqa: S608
        f"ORDER BY c.{rank} LIMIT {limit}"
    )
    with open_catalog(place.uri, place.storage, options.version) as con:
        rows = con.sql(f"({labelled}) UNION ALL ({fresh})").to_arrow_table().to_pylist()
    storage.put(canonical(options.out), "".join(write_csv(rows, spec.key)).encode())
    summary = {"catalogue": place.uri, "rows": len(rows), "labels": options.out}
    return JobResult(summary, [f"labels: {options.out} ({len(rows)} rows)"])


def overview(place: Place, options: Options) -> JobResult:
    """List the submissions."""
    release, spec = opened(place, options.version)
    found = submissions(read_labels(release, spec, Storage(place.storage)))
    lines = [
        f"{s['label_version']:6}  {s['labelled_at']}  {s['labels']:6} by {s['labelled_by']}"
        f"{', {} taken back'.format(s['taken_back']) if s['taken_back'] else ''}  {s['reason']}"
        for s in found
    ]
    return JobResult({"catalogue": place.uri, "submissions": found}, lines or ["no labels"])


def submissions(labels: pa.Table) -> Sequence[dict[str, Any]]:
    """One row a submission, oldest first."""
    names = ["label_version", "labelled_by", "labelled_at", "reason"]
    is_back = pc.call_function("equal", [labels["human_label"], UNLABELLED])
    counts = {
        "labels": pc.cast(pc.call_function("invert", [is_back]), pa.int64()),
        "taken_back": pc.cast(is_back, pa.int64()),
    }
    table = pa.table({**{name: labels[name] for name in names}, **counts})
    counted = table.group_by(names).aggregate([(name, "sum") for name in counts]).sort_by("label_version")
    return counted.rename_columns([*names, *counts]).to_pylist()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        raise ConfigError(
            "the user of this process has no name", hint="Say who labelled: give --who."
        ) from None


def _text(uri: str, storage: Storage) -> str:
    try:
        return storage.read(canonical(uri)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not text ({error.reason})", uri) from None
