"""New ranks of a version of a catalogue, beside it: `reranks/000003.json` and the files that it names.

Nothing of the catalogue changes. A rerank is of one version, with the labels up to one submission, by one method; it
exists when its record does, which is created with a put-if-absent after its files. The view `reranked` of
`catalogs.query` shows the newest rerank of the version that is open.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from catalogs.numbered import append, numbered
from catalogs.release import Release
from catalogs.spec import CatalogSpec
from engine.column import Column
from engine.errors import CommitError
from engine.storage import Storage, canonical

FOLDER, SUFFIX = "reranks", ".json"

SCORE_COLUMNS: dict[str, tuple[Column, ...]] = {
    "astronomaly": (
        Column(
            "rerank_score",
            "float32",
            "Score of the catalogue on a scale of 0 to 5, damped where labels are low",
        ),
        Column("predicted_label", "float32", "Label as the labelled objects suggest it, 0 to 5"),
        Column("labelled_distance", "float32", "Distance in latent space to the nearest labelled object"),
    ),
    "protege": (
        Column("rerank_score", "float32", "Improvement on the best label so far that can be expected"),
        Column("predicted_label", "float32", "Label as a Gaussian process expects it"),
        Column("predicted_label_sigma", "float32", "Standard deviation of that"),
    ),
}
"""What each method writes, beside the key."""

DEFAULT_METHOD = "astronomaly"
REVISION = {"astronomaly": 2, "protege": 1}
"""Of each method; raised where it gives other scores for the same labels, so that ranks are made anew."""


@dataclass(frozen=True)
class RerankFile:
    """A part of a rerank: path below the root of the catalogue, rows, size, SHA-256."""

    path: str
    rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Rerank:
    """Record of a rerank.

    Parameters
    ----------
    id
        Hash of what it depends on: version, labels, method, its `REVISION` and settings.
    version, publish_id
        Of the catalogue.
    label_version
        Last submission of labels that counted.
    num_labels
        Labelled objects.
    method, settings
        How it was computed.
    created
        UTC, ISO 8601.
    files
        Where the rows are.
    """

    id: str
    version: int
    publish_id: str
    label_version: int
    num_labels: int
    method: str
    settings: dict[str, Any]
    created: str
    files: tuple[RerankFile, ...]


def rerank_columns(release: Release, spec: CatalogSpec, method: str) -> tuple[Column, ...]:
    """Columns of the files of a rerank."""
    named = {column.name: column for column in release.columns}
    return (*(named[name] for name in spec.key), *SCORE_COLUMNS[method])


def newest_rerank(release: Release, storage: Storage) -> Rerank | None:
    """Return the newest rerank of a version; None if there is none."""
    for _, uri in reversed(_records(release.root, storage)):
        rerank = _read(uri, storage)
        if rerank.publish_id == release.manifest.publish_id:
            return rerank
    return None


def write_rerank(release: Release, storage: Storage, rerank: Rerank) -> int:
    """Create the record of a rerank whose files are written, and return its number.

    Raises
    ------
    CommitError
        If a hundred others were quicker each time.
    """
    data = json.dumps(asdict(rerank), sort_keys=True).encode()
    folder = storage.join(release.root, FOLDER)
    return append(folder, SUFFIX, storage, lambda _: data, "ranks could not be recorded")


def rerank_uris(release: Release, rerank: Rerank | None) -> list[str]:
    """Files of a rerank."""
    return [Storage.join(release.root, file.path) for file in rerank.files] if rerank else []


def _records(root: str, storage: Storage) -> list[tuple[int, str]]:
    return numbered(storage.join(canonical(root), FOLDER), SUFFIX, storage)


def _read(uri: str, storage: Storage) -> Rerank:
    try:
        facts = json.loads(storage.read(uri))
        files = tuple(RerankFile(**file) for file in facts.pop("files"))
        return Rerank(**facts, files=files)
    except (ValueError, TypeError, KeyError) as error:
        raise CommitError(f"not the record of a rerank ({error})", uri) from error


def reranked_sql(key: Sequence[str], method: str, labels: str) -> str:
    """Return SQL of the view `reranked`, from views `catalog` and `rerank_rows`, and the SQL of labels in force."""
    keys = ", ".join(key)
    scores = ", ".join(f"r.{column.name}" for column in SCORE_COLUMNS[method])
    return (
        f"SELECT row_number() OVER (ORDER BY r.rerank_score DESC, {keys}) AS rerank, {scores}, l.human_label, c.* "  # noqa: S608
        f"FROM rerank_rows r JOIN catalog c USING ({keys}) LEFT JOIN ({labels}) l USING ({keys})"
    )
