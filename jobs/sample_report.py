"""Samples of a generator beside the set that it learned from: measured alike, compared, drawn."""

import math
from collections.abc import Collection, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalogs.sample_robustness import Robustness, read_robustness
from catalogs.sample_sets import Findings, ImageSet
from engine import cluster
from engine.checkpoint import Checkpoint
from engine.commit import Manifest, read_manifest
from engine.errors import SourceError
from engine.images.morphology import MORPHOLOGY, MorphologyConfig, measure
from engine.images.nearest import NEAREST, NearestConfig, features, nearest
from engine.images.own_size import SKIRT_G, SKIRT_I, at_own_size, has_size
from engine.pipeline import map_tasks
from engine.schema import Arrays, matrix
from engine.storage import Storage
from engine.train.batches import SPLIT_COLUMN, read_tables
from jobs.config import JobConfig, Place
from jobs.report import path_of
from models.evaluation.distances import cut_size, cuts_for, g_minus_i, keep
from models.evaluation.neighbours import Copying, copying
from models.evaluation.table import SetMeasures, TableConfig
from models.evaluation.verdict import floor, label, shown, verdict
from models.generators.config import GeneratorConfig

PIECE = 16
"""Images that a task measures."""
PREFIX = "morph_"
SHOWN = {"image", "object_id", NEAREST[0].name, *(column.name for column in MORPHOLOGY)}
FLOOR_OF_SETS = "the same of as many other real images instead of generated ones. What lies no higher cannot be told from the real set."
FLOOR_OF_HALVES = (
    "the same between halves of the real set, as there are not enough other real images. Halves are smaller than the sets "
    "compared, so this floor lies too high, about 1.4 times that of sets of their size (and coverage too low)."
)
MAX_ROWS = 2000
"""Staged images that samples are compared with where `augment.nearest` does not say it."""


def held_out_fraction(config: JobConfig, checkpoint: Checkpoint) -> float:
    """Share of the staged rows that the generator did not learn from: what its training says, else what `[train]` says."""
    trained = checkpoint.provenance.get("config", {}).get("train", {})
    return trained.get("validation_fraction", config.train.validation_fraction)


def write(
    config: JobConfig, place: Place, manifest: Manifest, settings: GeneratorConfig, fraction: float
) -> str:
    """Measure and draw, and return the path of the report.

    Parameters
    ----------
    config
        With `staged`, the real set, and `augment.morphology`, how it is measured.
    place, manifest
        The catalogue of samples and its version.
    settings
        Of the generator.
    fraction
        Of the staged rows, by `split_hash`, that it did not learn from.

    Raises
    ------
    SourceError
        If there are no real images.
    """
    from catalogs.sample_report import sample_report  # matplotlib: only a report needs it

    assert config.staged is not None
    assert config.augment is not None
    how, num = config.augment.morphology or MorphologyConfig(), config.augment.report_images
    column = settings.image_column
    generated = rows_of(place, manifest, num)
    real, num_held_out = held_out_first(config.staged, column, 2 * num, fraction)
    if not real.num_rows:
        raise SourceError("there are no real images to compare with", config.staged.uri)
    rest = beside_floor(real[num:], generated.num_rows)
    with cluster.connect(config.cluster):
        ours, theirs = (_measured_set(table, settings, how) for table in (real[:num], generated))
        others = _measured_set(rest, settings, how) if rest else None
    name = NEAREST[0].name
    findings = Findings(
        *_distances(ours, theirs, others, settings),
        *_copying(config, settings, generated, fraction),
        num_held_out=min(num_held_out, num),
        left_out=_left_out(ours, theirs, settings),
        nearest=generated[name].to_numpy() if name in generated.column_names else None,
        robustness=_robustness(config),
    )
    html = sample_report(place.uri, manifest, ours, theirs, settings.softening, findings)
    path = path_of(place, manifest)
    Storage(place.storage).put(path, html.encode())
    return path


def beside_floor(others: pa.Table, num: int) -> pa.Table | None:
    """Return as many other real images as there are generated ones, None if there are fewer: the floor is of their size."""
    return others[:num] if others.num_rows >= num else None


def rows_of(place: Place, manifest: Manifest | None, num: int, wanted: Collection[str] = SHOWN) -> pa.Table:
    """Return some columns of the first rows of what is published somewhere, `num` at most."""
    parts, rows = list[pa.Table](), 0
    for table in tables_of(place, manifest, wanted):
        parts.append(table[: num - rows])
        rows += parts[-1].num_rows
        if rows == num:
            break
    return pa.concat_tables(parts) if parts else pa.table({name: [] for name in wanted})


def real_rows(place: Place, column: str, num: int, wanted: Collection[str]) -> pa.Table:
    """Return the first staged rows, `num` at most, with their images as `image`."""
    table = rows_of(place, None, num, {column, *wanted})
    return table.rename_columns({column: "image"}) if column != "image" else table


def held_out_first(place: Place, column: str, num: int, fraction: float) -> tuple[pa.Table, int]:
    """Return staged rows, `num` at most, and how many of them were not trained on: those come first.

    Samples of a generator that has its training images by heart are near to those, not to others.
    """
    held_out, others = list[pa.Table](), list[pa.Table]()
    for table in tables_of(place, None, {column, SPLIT_COLUMN, *SHOWN}):
        is_held_out = pc.call_function("less", [table[SPLIT_COLUMN], fraction])
        for parts, mine in ((held_out, is_held_out), (others, pc.call_function("invert", [is_held_out]))):
            parts.append(table.filter(mine)[: num - sum(part.num_rows for part in parts)])
        if sum(part.num_rows for part in held_out) == num:
            break
    if not held_out:
        return pa.table({"image": []}), 0
    num_held_out = sum(part.num_rows for part in held_out)
    rows = pa.concat_tables([*held_out, *others])[:num]
    return (rows.rename_columns({column: "image"}) if column != "image" else rows), num_held_out


def tables_of(place: Place, manifest: Manifest | None, wanted: Collection[str]) -> Iterator[pa.Table]:
    """Yield some columns of what is published somewhere, file by file."""
    storage = Storage(place.storage)
    manifest = manifest or read_manifest(place.uri, storage)
    names = [column["name"] for column in manifest.columns if column["name"] in wanted]
    uris = sorted(Storage.join(place.uri, file.path) for file in manifest.files if file.role == "data")
    yield from read_tables(uris, names, storage)


def _measured_set(table: pa.Table, settings: GeneratorConfig, how: MorphologyConfig) -> ImageSet:
    """Images of one channel, and their morphology; with the bands of SKIRT their colours too."""
    bands = _square(table, settings)
    images = bands[:, how.channel]
    measured = _morphology(table, bands, how)
    if has_size(settings.num_channels):
        measured |= {"g_minus_i": g_minus_i(bands[:, SKIRT_G], bands[:, SKIRT_I])}
    return ImageSet(images, measured)


def _left_out(real: ImageSet, generated: ImageSet, settings: GeneratorConfig) -> str:
    cuts = cuts_for(cut_size(settings.num_channels, settings.size))
    ours, theirs = (keep(one.morphology, cuts).told for one in (real, generated))
    return f"Real images: {ours}; generated ones: {theirs}."


def _morphology(table: pa.Table, bands: np.ndarray, how: MorphologyConfig) -> Arrays:
    """Values that the rows have already, or measured on all CPUs, at the size that images say they had."""
    names = [column.name for column in MORPHOLOGY]
    if {*names} <= {*table.column_names}:
        return {name.removeprefix(PREFIX): table[name].to_numpy() for name in names}
    ids = table["object_id"].to_pylist()
    pieces = [(bands[n : n + PIECE], ids[n : n + PIECE]) for n in range(0, len(bands), PIECE)]
    parts = list(map_tasks(partial(_measured, how), pieces))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _measured(how: MorphologyConfig, piece: tuple[np.ndarray, Sequence[int]]) -> Arrays:
    bands, ids = piece
    return measure(at_own_size(bands, how.channel), ids, how)


def _distances(
    real: ImageSet, generated: ImageSet, others: ImageSet | None, settings: GeneratorConfig
) -> tuple[list[tuple[str, str, str]], str, str]:
    """Quantities with intervals and floors, as text, or why there are none; and what the floor is.

    Power is of the measured channel at the common size of all images; of images with a size channel the publication, and
    `benchmarks.generator_metrics`, take it of the r band at their own size.
    """
    config = TableConfig(size=cut_size(settings.num_channels, settings.size))
    ours, theirs = _compared(real, settings), _compared(generated, settings)
    try:
        found = verdict(ours[0], theirs[0], (ours[1], theirs[1]), config)
    except ValueError as error:
        return [], f"No distances: {str(error).rstrip('.')}.", ""
    what = FLOOR_OF_SETS if others else FLOOR_OF_HALVES
    try:
        beside = _floor(ours, _compared(others, settings) if others else None, config)
    except ValueError as error:
        beside, what = dict[str, float](), f"missing: {str(error).rstrip('.')}."
    rows = []
    for name, value in found.items():
        least = f"{beside[name]:.4f}" if name in beside else ""
        rows.append((label(name), shown(value, 1.0, 4), least))
    return rows, "", what


def _compared(images: ImageSet, settings: GeneratorConfig) -> tuple[SetMeasures, np.ndarray]:
    """Return what is compared of a set: measures, and features of pooled pixels."""
    return SetMeasures(images.morphology, images.spectra), features(images.images[:, None], _space(settings))


def _floor(
    real: tuple[SetMeasures, np.ndarray], others: tuple[SetMeasures, np.ndarray] | None, config: TableConfig
) -> dict[str, float]:
    """Return the verdict on other real images, or on halves where there are none."""
    if others is None:
        return {name: mean for name, (mean, _) in floor(*real, config).items()}
    judged = verdict(real[0], others[0], (real[1], others[1]), config, repeats=0)
    return {name: value.value for name, value in judged.items()}


def _space(settings: GeneratorConfig) -> NearestConfig:
    """Space of pooled pixels for images of any size."""
    return NearestConfig(side=math.gcd(settings.size, NearestConfig().side), softening=settings.softening)


def _copying(
    config: JobConfig, settings: GeneratorConfig, generated: pa.Table, fraction: float
) -> tuple[Copying | None, str, tuple[int, int]]:
    """Whether samples are nearer to training images than held-out ones are, or why it cannot be said; among how many."""
    assert config.staged is not None
    assert config.augment is not None
    limit = config.augment.nearest.max_rows if config.augment.nearest else MAX_ROWS
    staged = real_rows(config.staged, settings.image_column, limit, {SPLIT_COLUMN})
    space = config.augment.nearest or _space(settings)
    is_held_out = staged[SPLIT_COLUMN].to_numpy() < fraction
    images = _square(staged, settings)
    try:
        reference = features(images[~is_held_out], space)
        made = nearest(_square(generated, settings), reference, space)[0]
        found = copying(made, nearest(images[is_held_out], reference, space)[0])
    except ValueError as error:
        return None, f"Copies were not looked for: {str(error).rstrip('.')}.", (0, 0)
    return found, "", (len(reference), num_trained_on(config.staged, fraction))


def num_trained_on(place: Place, fraction: float) -> int:
    """Count the staged rows that a generator learned from."""
    hashes = (table[SPLIT_COLUMN].to_numpy() for table in tables_of(place, None, {SPLIT_COLUMN}))
    return sum(int((one >= fraction).sum()) for one in hashes)


def _square(table: pa.Table, settings: GeneratorConfig) -> np.ndarray:
    """Images [N, C, S, S]."""
    return matrix(table, "image").reshape(-1, settings.num_channels, settings.size, settings.size)


def _robustness(config: JobConfig) -> Robustness | None:
    """Read the experiment that the report is to show."""
    assert config.augment is not None
    asked = config.augment.robustness
    return read_robustness(Storage(asked.storage).read(asked.uri), asked.uri) if asked else None
