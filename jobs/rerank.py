"""New ranks of a catalogue from labels: learned from the labelled objects, computed for all, partition by partition.

Two passes over the latent coordinates: one for the sums that scores depend on, one for the scores. A worker holds one
batch of rows and the scores of one partition, so that memory does not grow with the catalogue.

Rows that the model could not score (flag NOT_SCORED: a band is missing, say) have no place in latent space. They get no
rank, as in the view `ranked`. Latents or scores that are not finite in any other row are a fault, and an error.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import add
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalogs.label_rows import labelled_features
from catalogs.labels import current_labels_sql, label_versions
from catalogs.query import open_catalog
from catalogs.release import Release
from catalogs.reranks import FOLDER, REVISION, Rerank, RerankFile, newest_rerank, rerank_columns, write_rerank
from catalogs.spec import CatalogSpec
from engine.commit import parquet, read_manifest
from engine.errors import ConfigError
from engine.flags import NOT_SCORED
from engine.rows import FLAGS
from engine.schema import arrow_schema, matrix
from engine.storage import Storage
from engine.units import content_hash
from jobs import catalogue, labels
from jobs.catalogue import RerankConfig
from jobs.config import Place
from jobs.job import JobResult, Options
from models.reranking.config import AstronomalyConfig, ProtegeConfig
from models.reranking.labelled import Labelled, Reranker, Totals

T = TypeVar("T")


def run(options: Options) -> JobResult:
    """Add the labels of `--labels` if there are any, then rank by all labels in force."""
    place, given = catalogue.load(options)
    lines = labels.add(place, options).lines if options.labels else []
    done, is_new = rerank(place, given.rerank, options.version)
    rows = sum(file.rows for file in done.files)
    unscored = read_manifest(place.uri, Storage(place.storage), done.version).rows - rows
    summary = {"catalogue": place.uri, "id": done.id, "version": done.version, "method": done.method,
               "labels": done.num_labels, "label_version": done.label_version, "rows": rows, "unscored": unscored,
               "is_new": is_new}  # fmt: skip
    said = f"ranks: {rows} rows by {done.num_labels} labels ({done.method}){'' if is_new else ', as before'}"
    said += f"; {unscored} rows without scores have no rank" if unscored else ""
    return JobResult(summary, [*lines, said, f"catalogue: {place.uri} (view reranked)"])


def rerank(place: Place, config: RerankConfig, version: int | None = None) -> tuple[Rerank, bool]:
    """Rank a version of a catalogue by the labels in force, unless that was done.

    Returns
    -------
    rerank, is_new
        Record, and whether it was made now.

    Raises
    ------
    ConfigError
        If there are no labels, the catalogue has no latent coordinates, or some of a scored row are not finite.
    """
    storage = Storage(place.storage)
    release, spec = labels.opened(place, version)
    if not spec.latent:
        raise ConfigError(
            "has no latent coordinates to learn from", place.uri, expected="a catalogue with a latent"
        )
    last = max((submission.number for submission in label_versions(release.root, storage)), default=0)
    settings = config.settings()
    method = [config.method, REVISION[config.method], settings]
    identity = content_hash([release.manifest.publish_id, last, *method], size=8)
    before = newest_rerank(release, storage)
    if before and before.id == identity:
        return before, False
    labelled = _labelled(place, release, spec, storage)
    files = rerank_files(release, spec, storage, learned(labelled, config), config)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    done = Rerank(identity, release.version, release.manifest.publish_id, last, len(labelled.labels), config.method,
                  settings, now, tuple(files))  # fmt: skip
    write_rerank(release, storage, done)
    return done, True


def learned(labelled: Labelled, config: RerankConfig) -> Reranker:
    """Learn from labels by the method of the configuration."""
    if config.method == "protege":
        from models.reranking.protege import Protege

        return Protege(labelled, ProtegeConfig(**config.settings()))
    from models.reranking.astronomaly import Astronomaly

    return Astronomaly(labelled, AstronomalyConfig(**config.settings()))


def _labelled(place: Place, release: Release, spec: CatalogSpec, storage: Storage) -> Labelled:
    """Latent coordinates and labels of what people judged, as far as this version has it."""
    with open_catalog(place.uri, place.storage, release.version) as con:
        given = con.sql(f"{current_labels_sql(spec.key)} ORDER BY ALL").to_arrow_table()
    features, is_there = labelled_features(release, spec, storage, given.select(list(spec.key)))
    if not is_there.any():
        raise ConfigError("no label of an object of this version", place.uri,
                          hint="Add some: python -m jobs labels CATALOGUE --labels FILE.")  # fmt: skip
    try:
        return Labelled(features, given["human_label"].to_numpy()[is_there])
    except ValueError as error:
        raise ConfigError(f"labels cannot be learned from ({error})", place.uri) from None


def rerank_files(
    release: Release, spec: CatalogSpec, storage: Storage, reranker: Reranker, config: RerankConfig
) -> list[RerankFile]:
    """Compute and write the scores of all partitions.

    Parameters
    ----------
    release, spec, storage
        The catalogue.
    reranker
        Has learned.
    config
        Method, threads and rows of a batch.

    Returns
    -------
    files
        Written, one a partition; no record names them yet.
    """
    shards = _Shards(release, spec, storage, reranker, config)
    uris = release.uris("data")
    totals = reduce(add, _each(shards.totals, uris, config.num_threads), Totals())
    folder = f"{FOLDER}/{secrets.token_hex(6)}"
    numbered = list(enumerate(uris))
    return _each(
        lambda item: shards.write(f"{folder}/{item[0]:06d}.parquet", item[1], totals),
        numbered,
        config.num_threads,
    )


def _each(function: Callable[[Any], T], items: Sequence[Any], num_threads: int) -> list[T]:
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(function, items))


@dataclass(frozen=True)
class _Shards:
    """What is done to each partition."""

    release: Release
    spec: CatalogSpec
    storage: Storage
    reranker: Reranker
    config: RerankConfig

    def totals(self, uri: str) -> Totals:
        parts = self._scored_rows(uri, [self.spec.latent, self.spec.score])
        return reduce(
            add, (self._checked(uri, self.reranker.totals, *self._arrays(part)) for part in parts), Totals()
        )

    def write(self, path: str, uri: str, totals: Totals) -> RerankFile:
        columns = rerank_columns(self.release, self.spec, self.config.method)
        schema = arrow_schema(columns)
        parts = [
            self._ranked(part, totals, schema)
            for part in self._scored_rows(uri, [*self.spec.key, self.spec.latent, self.spec.score])
        ]
        table = pa.concat_tables([schema.empty_table(), *parts])
        data = parquet.to_bytes(table)
        self.storage.put(self.storage.join(self.release.root, path), data)
        return RerankFile(path, table.num_rows, len(data), hashlib.sha256(data).hexdigest())

    def _ranked(self, part: pa.Table, totals: Totals, schema: pa.Schema) -> pa.Table:
        columns = self.reranker.apply(*self._arrays(part), totals)
        arrays = [part[name] if name in self.spec.key else pa.array(columns[name]) for name in schema.names]
        return pa.table(arrays, names=schema.names).cast(schema)

    def _arrays(self, part: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        return matrix(part, self.spec.latent), part[self.spec.score].to_numpy()

    def _scored_rows(self, uri: str, names: Sequence[str]) -> Iterator[pa.Table]:
        for part in self._batches(uri, [*names, FLAGS.name]):
            is_scored = (part[FLAGS.name].to_numpy() & NOT_SCORED.value) == 0
            yield part if is_scored.all() else part.filter(pa.array(is_scored))

    def _batches(self, uri: str, names: Sequence[str]) -> Iterator[pa.Table]:
        with self.storage.open_input(uri) as file, pq.ParquetFile(file) as source:
            for batch in source.iter_batches(self.config.batch_rows, columns=list(names), use_threads=False):
                yield pa.Table.from_batches([batch])

    def _checked(self, uri: str, function: Callable[..., Totals], *arrays: np.ndarray) -> Totals:
        try:
            return function(*arrays)
        except ValueError as error:
            raise ConfigError(
                f"cannot be ranked: {error}", uri, expected=f"finite {self.spec.latent} and {self.spec.score}",
                hint="python -m jobs check CATALOGUE says which rows.",
            ) from None  # fmt: skip
