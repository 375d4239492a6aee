"""Samples of a generator beside the set that it learned from: measured alike, compared, drawn."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from catalogs.sample_sets import ImageSet
from engine import cluster
from engine.commit import Manifest, read_manifest
from engine.errors import SourceError
from engine.images.morphology import MORPHOLOGY, MorphologyConfig, measure
from engine.images.nearest import NEAREST
from engine.pipeline import map_tasks
from engine.schema import Arrays, matrix
from engine.storage import Storage
from engine.train.batches import read_tables
from jobs.config import JobConfig, Place
from jobs.report import path_of
from models.evaluation.table import SetMeasures, TableConfig, compare, floor
from models.generators.config import GeneratorConfig

PIECE = 16
"""Images that a task measures."""
PREFIX = "morph_"


def write(config: JobConfig, place: Place, manifest: Manifest, settings: GeneratorConfig) -> str:
    """Measure and draw, and return the path of the report.

    Parameters
    ----------
    config
        With `staged`, the real set, and `augment.morphology`, how it is measured.
    place, manifest
        The catalogue of samples and its version.
    settings
        Of the generator.

    Raises
    ------
    SourceError
        If there are no real images.
    """
    from catalogs.sample_report import sample_report  # matplotlib: only a report needs it

    assert config.staged is not None
    assert config.augment is not None
    how, num = config.augment.morphology or MorphologyConfig(), config.augment.report_images
    generated, real = rows_of(place, manifest, num), rows_of(config.staged, None, num)
    if not real.num_rows:
        raise SourceError("there are no real images to compare with", config.staged.uri)
    with cluster.connect(config.cluster):
        ours, theirs = (_measured_set(table, settings, how) for table in (real, generated))
    distances, why = _distances(ours, theirs, settings.size)
    name = NEAREST[0].name
    nearest = generated[name].to_numpy() if name in generated.column_names else None
    html = sample_report(place.uri, manifest, ours, theirs, settings.softening, distances, why, nearest)
    path = path_of(place, manifest)
    Storage(place.storage).put(path, html.encode())
    return path


def rows_of(place: Place, manifest: Manifest | None, num: int) -> pa.Table:
    """Return the first rows of what is published somewhere, `num` at most."""
    storage = Storage(place.storage)
    manifest = manifest or read_manifest(place.uri, storage)
    wanted = {"image", "object_id", NEAREST[0].name, *(column.name for column in MORPHOLOGY)}
    names = [column["name"] for column in manifest.columns if column["name"] in wanted]
    uris = sorted(Storage.join(place.uri, file.path) for file in manifest.files if file.role == "data")
    parts, rows = list[pa.Table](), 0
    for table in read_tables(uris, names, storage):
        parts.append(table[: num - rows])
        rows += parts[-1].num_rows
        if rows == num:
            break
    return pa.concat_tables(parts) if parts else pa.table({name: [] for name in names})


def _measured_set(table: pa.Table, settings: GeneratorConfig, how: MorphologyConfig) -> ImageSet:
    """Images of one channel, and their morphology."""
    shape = (-1, settings.num_channels, settings.size, settings.size)
    images = matrix(table, "image").reshape(shape)[:, how.channel]
    return ImageSet(images, _morphology(table, images, how))


def _morphology(table: pa.Table, images: np.ndarray, how: MorphologyConfig) -> Arrays:
    """Values that the rows have already, or measured on all CPUs."""
    names = [column.name for column in MORPHOLOGY]
    if {*names} <= {*table.column_names}:
        return {name.removeprefix(PREFIX): table[name].to_numpy() for name in names}
    ids = table["object_id"].to_pylist()
    pieces = [(images[n : n + PIECE], ids[n : n + PIECE]) for n in range(0, len(images), PIECE)]
    parts = list(map_tasks(partial(_measured, how), pieces))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _measured(how: MorphologyConfig, piece: tuple[np.ndarray, Sequence[int]]) -> Arrays:
    return measure(*piece, how)


def _distances(real: ImageSet, generated: ImageSet, size: int) -> tuple[list[tuple[str, float, float]], str]:
    """Distances with their floors, or why there are none."""
    config = TableConfig(size=size)
    ours, theirs = (SetMeasures(one.morphology, one.spectra) for one in (real, generated))
    try:
        found, beside = compare(ours, theirs, config), floor(ours, config)
    except ValueError as error:
        return [], f"No distances: {error}."
    return [(name, value, beside[name][0]) for name, value in found.items()], ""
