"""What people think of the objects of a catalogue: a table that only grows, one file a submission.

`labels/000007.parquet` below the root of the catalogue holds the rows of the seventh submission; it is created with a
put-if-absent and never changed, so that submissions of several people at once are all kept. A later label of the same
person takes the place of an earlier one where labels are used; the earlier one stays on record. A label of -1 takes
back what the person said: it counts no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from catalogs.numbered import append, numbered
from catalogs.release import Release
from catalogs.spec import CatalogSpec
from engine.column import Column
from engine.commit import parquet
from engine.schema import arrow_schema
from engine.storage import Storage, canonical

FOLDER, SUFFIX = "labels", ".parquet"
MIN_LABEL, MAX_LABEL = 0.0, 5.0
"""Of a label: 0 is of no interest, 5 is what is looked for."""
UNLABELLED = -1.0
"""Astronomaly's value for no label; kept where a person takes a label back."""

FACTS = (
    Column("human_label", "float64", "Interest in the object, 0 to 5; -1: the person takes the label back"),
    Column("score", "float64", "Score of the catalogue when it was labelled", nullable=True),
    Column("labelled_by", "string", "Who labelled it"),
    Column("labelled_at", "string", "When, UTC, ISO 8601"),
    Column("reason", "string", "Why"),
    Column("label_version", "int32", "Number of the submission, from 1"),
)


@dataclass(frozen=True)
class LabelVersion:
    """A submission: its number and where its rows are."""

    number: int
    uri: str


def label_columns(release: Release, spec: CatalogSpec) -> tuple[Column, ...]:
    """Columns of the labels of a catalogue: its key, and `FACTS`."""
    named = {column.name: column for column in release.columns}
    return (*(named[name] for name in spec.key), *FACTS)


def label_versions(root: str, storage: Storage) -> list[LabelVersion]:
    """Submissions, oldest first."""
    folder = storage.join(canonical(root), FOLDER)
    return [LabelVersion(number, uri) for number, uri in numbered(folder, SUFFIX, storage)]


def read_labels(release: Release, spec: CatalogSpec, storage: Storage) -> pa.Table:
    """All labels ever given, oldest first."""
    schema = arrow_schema(label_columns(release, spec))
    parts = [parquet.read(storage, version.uri) for version in label_versions(release.root, storage)]
    return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)])


def labels_of(labels: pa.Table, key: Sequence[str], who: str) -> list[dict[str, Any]]:
    """Return the labels of a person that are in force, given all labels, oldest first."""
    mine = labels.filter(pc.call_function("equal", [labels["labelled_by"], who])).to_pylist()
    last = {tuple(row[name] for name in key): row for row in mine}
    return [row for row in last.values() if row["human_label"] != UNLABELLED]


def append_labels(release: Release, spec: CatalogSpec, storage: Storage, rows: pa.Table) -> int:
    """Add labels that have been checked (`catalogs.label_rows`).

    Parameters
    ----------
    release, spec, storage
        The catalogue.
    rows
        Columns of `label_columns` but `label_version`.

    Returns
    -------
    number
        Of the submission.

    Raises
    ------
    CommitError
        If a hundred others were quicker each time.
    """
    columns = label_columns(release, spec)

    def content(number: int) -> bytes:
        numbers = pa.array([number] * rows.num_rows, pa.int32())
        table = rows.append_column("label_version", numbers).select([column.name for column in columns])
        return parquet.to_bytes(table.cast(arrow_schema(columns)))

    folder = storage.join(release.root, FOLDER)
    return append(folder, SUFFIX, storage, content, "labels could not be added")


def current_labels_sql(key: Sequence[str]) -> str:
    """Return SQL of the labels in force in a view `labels`: of each person the last one, their mean over people.

    A person whose last label is -1 has taken it back.
    """
    keys = ", ".join(key)
    return f"SELECT {keys}, avg(human_label) AS human_label FROM ({each_label_sql(key)}) GROUP BY {keys}"  # noqa: S608 - names of our own


def each_label_sql(key: Sequence[str]) -> str:
    """Return SQL of the rows of a view `labels` that are in force: of each person and object the last, unless it takes back."""
    last = f"row_number() OVER (PARTITION BY {', '.join(key)}, labelled_by ORDER BY label_version DESC) = 1"
    return f"SELECT * FROM (SELECT * FROM labels QUALIFY {last}) WHERE human_label <> {UNLABELLED}"  # noqa: S608 - names of our own
