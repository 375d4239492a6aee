"""Read the most anomalous objects of a catalogue again, and let its model reconstruct them for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

from catalogs import CATALOGS
from catalogs.gallery import GalleryItem
from catalogs.query import open_catalog, run_query
from catalogs.spec import CatalogSpec
from engine.commit import Manifest
from engine.errors import EngineError
from engine.infer import open_model
from engine.schema import to_arrays
from engine.sources.base import Source
from engine.stage import PrepareConfig, UnitFunction, UnitTable
from engine.storage import Storage
from engine.units import Unit
from jobs import applied
from jobs.applied import Applied
from jobs.config import JobConfig, Place
from models.spec import ModelSpec

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Reader:
    """What it takes to draw an object again: where it came from and what scored it."""

    source: Source
    prepare: PrepareConfig
    before: tuple[UnitFunction, ...]
    catalog: CatalogSpec
    spec: ModelSpec
    settings: Any
    module: nn.Module


def make_reader(config: JobConfig, chain: Sequence[Applied]) -> Reader:
    """Return the reader for the configuration that a version was made with."""
    assert config.release is not None
    last = chain[-1]
    opened = open_model(last.spec, last.checkpoint, last.place.uri)
    before = tuple(stage.open() for stage in applied.stages_before(config, chain))
    prepare = applied.prepare_config(config, chain)
    return Reader(config.release.open(), prepare, before, CATALOGS[config.catalog.name], last.spec, *opened)


def items(reader: Reader, place: Place, manifest: Manifest, num_items: int) -> tuple[list[GalleryItem], str]:
    """Return what the model made of the catalogue's choices of objects, and what to say if some are not there.

    An object whose file is gone or has changed is left out, not an error: a report is never lost for a
    picture.
    """
    chosen = _chosen(place, manifest.version, reader.catalog, num_items)
    top = [row for rows in chosen for row in rows]
    found: dict[Key, GalleryItem] = {}
    problems: list[str] = []
    for unit in _units_with(place, manifest, {row["source_uri"] for row in top}):
        files = {file.uri for file in unit.files}
        rows = [row for row in top if row["source_uri"] in files and _key(row, reader) not in found]
        try:
            found |= _draw(reader, unit, rows)
        except EngineError as error:
            problems.append(str(error))
    ordered = [
        replace(found[key], choice=index)
        for index, rows in enumerate(chosen)
        for key in (_key(row, reader) for row in rows)
        if key in found
    ]
    missing = len(top) - len(ordered)
    note = (
        f"{missing} of {len(top)} objects could not be read again. {' '.join(problems[:1])}"
        if missing
        else ""
    )
    return ordered, note


def _key(row: Mapping[str, Any], reader: Reader) -> Key:
    return tuple(row[name] for name in reader.catalog.key)


def _chosen(place: Place, version: int, catalog: CatalogSpec, num_items: int) -> list[list[dict[str, Any]]]:
    """Keys and files of the objects of each choice, which share `num_items`."""
    names, num = ", ".join((*catalog.key, "source_uri")), -(-num_items // len(catalog.choices))
    with open_catalog(place.uri, place.storage, version) as connection:
        lines = (f"SELECT {names} FROM {choice.rows.format(n=num)}" for choice in catalog.choices)  # noqa: S608
        return [run_query(connection, line).read_all().to_pylist() for line in lines]


def units_of(place: Place, manifest: Manifest) -> list[Unit]:
    """Return the units that a version was made from."""
    storage = Storage(place.storage)
    with storage.open_input(storage.join(place.uri, manifest.paths("units")[0])) as file:
        table = pq.read_table(file, columns=["unit"])
    return [Unit.from_json(text) for text in table["unit"].to_pylist()]


def _units_with(place: Place, manifest: Manifest, uris: set[str]) -> list[Unit]:
    """Return the units that read the files wanted; strips share files."""
    return [unit for unit in units_of(place, manifest) if any(file.uri in uris for file in unit.files)]


def _draw(reader: Reader, unit: Unit, rows: Sequence[Mapping[str, Any]]) -> dict[Key, GalleryItem]:
    """Read a unit again as far as these rows go, and let the model reconstruct those that it has."""
    if not rows:
        return {}
    read = reader.source.read(unit)
    name = reader.catalog.key[-1]  # names an object nearly alone; rows that share it do no harm
    wanted = np.isin(read.rows[name].to_numpy(), [row[name] for row in rows])
    if not wanted.any():
        return {}
    chosen = UnitTable(read.rows.filter(pa.array(wanted)), read.rejected, read.rows_in)
    for function in reader.before:
        chosen = function(chosen)
    table = chosen.rows
    inputs = to_arrays(table, [column.name for column in reader.spec.reads(reader.settings)])
    outputs = _reconstruct(reader, inputs)
    keys = [_key(row, reader) for row in table.select(list(reader.catalog.key)).to_pylist()]
    return {
        key: GalleryItem(key, _row(inputs, index), _row(outputs, index), reader.prepare)
        for index, key in enumerate(keys)
    }


def _row(arrays: Mapping[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    return {name: array[index] for name, array in arrays.items()}


def _reconstruct(reader: Reader, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    reconstruct = reader.spec.reconstruct
    return reconstruct(reader.settings, reader.module, batch) if reconstruct else {}
