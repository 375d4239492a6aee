"""Samples of a generator beside the set that it learned from: measured alike, compared, drawn."""

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalogs.sample_robustness import Robustness, read_robustness
from catalogs.sample_sets import Findings, ImageSet
from engine import cluster
from engine.commit import Manifest
from engine.errors import SourceError
from engine.images.measures import colours, measures, spectra, usable
from engine.images.morphology import MORPHOLOGY, MorphologyConfig
from engine.images.nearest import NEAREST, NearestConfig, features, nearest, nearest_of
from engine.images.own_size import has_size
from engine.images.power import stacked
from engine.pipeline import map_tasks
from engine.schema import Arrays, matrix
from engine.storage import Storage
from engine.train.batches import SPLIT_COLUMN
from jobs.config import AugmentConfig, JobConfig, Place
from jobs.learned import learned_from, num_trained_on, tables_of
from jobs.report import path_of
from models.evaluation.distances import cut_size, cuts_for, keep
from models.evaluation.neighbours import Copying, copying
from models.evaluation.table import SetMeasures, TableConfig
from models.evaluation.verdict import Verdict, floor, label, shown, verdict
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
REPEATS = 200
"""Draws of the intervals."""


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
        If there are no real images, or none of a set can be measured.
    """
    from catalogs.sample_report import sample_report  # matplotlib: only a report needs it

    assert config.staged is not None
    assert config.augment is not None
    how, num = config.augment.morphology or MorphologyConfig(), config.augment.report_images
    real, num_held_out = held_out_first(config.staged, settings.image_column, 2 * num, fraction)
    chosen = usable_rows(real, rows_of(place, manifest, num), settings)
    if not chosen.real.num_rows or not chosen.generated.num_rows:
        raise SourceError("there are no images to compare", config.staged.uri, chosen.told.strip())
    real, generated = chosen.real, chosen.generated
    rest = beside_floor(real[num:], generated.num_rows)
    with cluster.connect(config.cluster):
        ours, theirs = (_measured_set(table, settings, how) for table in (real[:num], generated))
        others = _measured_set(rest, settings, how) if rest else None
    name = NEAREST[0].name
    findings = Findings(
        *_distances(ours, theirs, others, _table_config(config.augment, settings)),
        *_copying(config, settings, generated, fraction),
        num_held_out=min(int(chosen.is_usable[0][:num_held_out].sum()), num),
        left_out=_left_out(ours, theirs, settings) + chosen.told,
        nearest=generated[name].to_numpy() if name in generated.column_names else None,
        robustness=_robustness(config),
    )
    html = sample_report(place.uri, manifest, ours, theirs, settings.softening, findings)
    path = path_of(place, manifest)
    Storage(place.storage).put(path, html.encode())
    return path


class Chosen(NamedTuple):
    """Rows of both sets whose images can be measured, and which of those that were read they are, bool [N] and [M]."""

    real: pa.Table
    generated: pa.Table
    is_usable: tuple[np.ndarray, np.ndarray]

    @property
    def told(self) -> str:
        """How many images that were read cannot be measured; nothing where all can."""
        pairs = list(zip(("real", "generated"), self.is_usable, strict=True))
        if all(len(one) and one.all() for _, one in pairs):
            return ""
        told = " and ".join(f"{(~one).sum()} of {len(one)} {name}" for name, one in pairs)
        return f" Left out before, as not finite or constant in a channel: {told} images that were read."


def usable_rows(real: pa.Table, generated: pa.Table, settings: GeneratorConfig) -> Chosen:
    """Leave out the rows of which nothing can be measured."""
    first, second = (
        usable(_square(table, settings)) if table.num_rows else np.zeros(0, bool)
        for table in (real, generated)
    )
    return Chosen(real.filter(pa.array(first)), generated.filter(pa.array(second)), (first, second))


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


def _measured_set(table: pa.Table, settings: GeneratorConfig, how: MorphologyConfig) -> ImageSet:
    """Images of one channel, and all that is measured."""
    bands = _square(table, settings)
    morphology, amplitudes = _measures(table, bands, how)
    return ImageSet(bands[:, how.channel], morphology, amplitudes, features(bands, _space(settings)))


def _left_out(real: ImageSet, generated: ImageSet, settings: GeneratorConfig) -> str:
    cuts = cuts_for(cut_size(settings.num_channels, settings.size))
    ours, theirs = (keep(one.morphology, cuts).told for one in (real, generated))
    return f"Real images: {ours}; generated ones: {theirs}."


def _measures(table: pa.Table, bands: np.ndarray, how: MorphologyConfig) -> tuple[Arrays, np.ndarray]:
    """Morphology, which the rows may have already, colours, and power spectra: measured on all CPUs where it takes long."""
    starts, ids = range(0, len(bands), PIECE), table["object_id"].to_pylist()
    names = [column.name for column in MORPHOLOGY]
    if {*names} <= {*table.column_names}:
        mapped = map_tasks if has_size(bands.shape[1]) else map
        parts = mapped(partial(spectra, channel=how.channel), [bands[n : n + PIECE] for n in starts])
        known = {name.removeprefix(PREFIX): table[name].to_numpy() for name in names}
        return known | colours(bands), stacked(parts)
    pieces = [(bands[n : n + PIECE], ids[n : n + PIECE]) for n in starts]
    found = list(map_tasks(partial(_measured, how), pieces))
    morphology = {name: np.concatenate([part[0][name] for part in found]) for name in found[0][0]}
    return morphology, stacked(part[1] for part in found)


def _measured(how: MorphologyConfig, piece: tuple[np.ndarray, Sequence[int]]) -> tuple[Arrays, np.ndarray]:
    return measures(*piece, how)


def _table_config(asked: AugmentConfig, settings: GeneratorConfig) -> TableConfig:
    """Return how distances are taken."""
    size = cut_size(settings.num_channels, settings.size)
    return TableConfig(size=size, circular=asked.circular, histogram=not asked.exact_power)


def _distances(
    real: ImageSet, generated: ImageSet, others: ImageSet | None, config: TableConfig
) -> tuple[list[tuple[str, str, str]], list[str], str, str]:
    """Quantities with intervals and floors, as text; what is missing and why; how they are taken; what the floor is."""
    found = _judged(real, generated, config)
    beside = _judged(real, others, config, 0) if others else floor(_compared(real), real.pooled, config)
    rows = []
    for name, value in found.values.items():
        least = f"{beside.values[name].value:.4f}" if name in beside.values else ""
        rows.append((label(name), shown(value, 1.0, 4), least))
    only_floor = {group: why for group, why in beside.missing.items() if group not in found.missing}
    missing = [*found.told, *(f"Floor: {line}" for line in Verdict({}, only_floor).told)]
    return rows, missing, _taken(config), FLOOR_OF_SETS if others else FLOOR_OF_HALVES


def _taken(config: TableConfig) -> str:
    """Say how distances are taken, where there are two ways."""
    line = "a circle" if config.circular else "a line, as published"
    power = "by the published histograms" if config.histogram else "exact, not by the published histograms"
    return f"Orientation is on {line}; power is {power}."


def _judged(real: ImageSet, other: ImageSet, config: TableConfig, repeats: int = REPEATS) -> Verdict:
    return verdict(_compared(real), _compared(other), (real.pooled, other.pooled), config, repeats)


def _compared(images: ImageSet) -> SetMeasures:
    return SetMeasures(images.morphology, images.spectra)


def _space(settings: GeneratorConfig) -> NearestConfig:
    """Space of pooled pixels for images of any size."""
    return NearestConfig(side=math.gcd(settings.size, NearestConfig().side), softening=settings.softening)


def _copying(
    config: JobConfig, settings: GeneratorConfig, generated: pa.Table, fraction: float
) -> tuple[Copying | None, str, tuple[int, int]]:
    """Whether samples are nearer to training images than held-out ones are, or why it cannot be said; among how many."""
    assert config.staged is not None
    assert config.augment is not None
    space = config.augment.nearest or _space(settings)
    most = config.augment.nearest.max_rows if config.augment.nearest else 0
    try:
        known = learned_from(config.staged, settings, space, fraction, most)
        made = nearest(_square(generated, settings), known.trained, space)[0]
        found = copying(made, nearest_of(known.held_out, known.trained, space.side)[0])
    except ValueError as error:
        return None, f"Copies were not looked for: {str(error).rstrip('.')}.", (0, 0)
    return found, "", (len(known.trained), num_trained_on(config.staged, fraction))


def _square(table: pa.Table, settings: GeneratorConfig) -> np.ndarray:
    """Images [N, C, S, S]."""
    return matrix(table, "image").reshape(-1, settings.num_channels, settings.size, settings.size)


def _robustness(config: JobConfig) -> Robustness | None:
    """Read the experiment that the report is to show."""
    assert config.augment is not None
    asked = config.augment.robustness
    return read_robustness(Storage(asked.storage).read(asked.uri), asked.uri) if asked else None
