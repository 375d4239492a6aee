"""The staged images that a generator learned from, by the hash of each row: what its samples are looked up among.

Read table by table, and of each image only its features are kept: 64 numbers a channel, 13 MB of 50,000 images with one.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from engine.checkpoint import Checkpoint
from engine.commit import Manifest, read_manifest
from engine.errors import ConfigError
from engine.images.nearest import NearestConfig, NearestReal, features
from engine.schema import matrix
from engine.storage import Storage
from engine.train.batches import SPLIT_COLUMN, read_tables
from jobs.config import JobConfig, NearestRealConfig, Place
from jobs.parts import Parts
from models.generators.config import GeneratorConfig

MOST_HELD_OUT = 2048
"""Held-out images that are compared beside samples: more of them say little more."""


@dataclass(frozen=True)
class Learned:
    """Features of staged images.

    Parameters
    ----------
    trained, ids
        Of those that a generator learned from, [M, F], and their identifiers [M].
    held_out
        Of others, [H, F], H at most `MOST_HELD_OUT`.
    """

    trained: np.ndarray
    ids: np.ndarray
    held_out: np.ndarray


def held_out_fraction(config: JobConfig, checkpoint: Checkpoint) -> float:
    """Share of the staged rows that the generator did not learn from: what its training says, else what `[train]` says."""
    trained = checkpoint.provenance.get("config", {}).get("train", {})
    return trained.get("validation_fraction", config.train.validation_fraction)


def tables_of(place: Place, manifest: Manifest | None, wanted: Collection[str]) -> Iterator[pa.Table]:
    """Yield some columns of what is published somewhere, file by file."""
    storage = Storage(place.storage)
    manifest = manifest or read_manifest(place.uri, storage)
    names = [column["name"] for column in manifest.columns if column["name"] in wanted]
    uris = sorted(Storage.join(place.uri, file.path) for file in manifest.files if file.role == "data")
    yield from read_tables(uris, names, storage)


def num_trained_on(place: Place, fraction: float) -> int:
    """Count the staged rows that a generator learned from."""
    hashes = (table[SPLIT_COLUMN].to_numpy() for table in tables_of(place, None, {SPLIT_COLUMN}))
    return sum(int((one >= fraction).sum()) for one in hashes)


def learned_from(
    place: Place, settings: GeneratorConfig, space: NearestConfig, fraction: float, most: int = 0
) -> Learned:
    """Return features of the staged images; those that are not finite are left out.

    Parameters
    ----------
    place
        Where they are staged.
    settings
        Of the generator: which column, and of what shape.
    space
        Of the features; ValueError if blocks do not fill the images.
    fraction
        Of the rows, by `split_hash`, that it did not learn from.
    most
        Images that it learned from at most, from the beginning of the files; 0: all.
    """
    trained, ids, others, rows = list[np.ndarray](), list[np.ndarray](), list[np.ndarray](), 0
    for table in tables_of(place, None, {settings.image_column, SPLIT_COLUMN, "object_id"}):
        found = features(_square(table, settings.image_column, settings), space)
        is_finite = np.isfinite(found).all(1)
        is_trained = table[SPLIT_COLUMN].to_numpy() >= fraction
        chosen = np.flatnonzero(is_finite & is_trained)[: most - rows if most else None]
        trained.append(found[chosen])
        ids.append(table["object_id"].to_numpy()[chosen])
        others.append(found[is_finite & ~is_trained])
        rows += len(chosen)
        if most and rows == most:
            break
    return Learned(np.concatenate(trained), np.concatenate(ids), np.concatenate(others)[:MOST_HELD_OUT])


def _square(table: pa.Table, column: str, settings: GeneratorConfig) -> np.ndarray:
    return matrix(table, column).reshape(-1, settings.num_channels, settings.size, settings.size)


def nearest_stage(settings: GeneratorConfig, asked: NearestRealConfig) -> tuple[NearestReal, Manifest]:
    """Stage that compares with a staged set, and the version of it; `with_reference` gives it the images.

    Raises
    ------
    ConfigError
        If the set holds no images of the shape of the samples.
    """
    manifest = read_manifest(asked.staged.uri, Storage(asked.staged.storage))
    lengths = {one["name"]: one["length"] for one in manifest.columns}
    needed = (settings.image_column, "object_id", SPLIT_COLUMN)
    if not {*needed} <= lengths.keys():
        got, expected = ", ".join(lengths), ", ".join(needed)
        raise ConfigError("staged set holds no images to learn from", asked.staged.uri, got, expected)
    shape = (settings.num_channels, settings.size, settings.size)
    if lengths[settings.image_column] != settings.num_pixels:
        raise ConfigError(
            "real images are not of the shape of the samples", asked.staged.uri,
            f"{lengths[settings.image_column]} pixels", f"{settings.num_pixels}: {shape}",
        )  # fmt: skip
    if settings.size % asked.side:
        got, expected = str(asked.side), f"a divisor of {settings.size}"
        raise ConfigError("blocks do not fill the image", "augment.nearest.side", got, expected)
    return NearestReal(
        settings.size, settings.num_channels, np.zeros((0, 0)), np.zeros(0, np.int64), asked
    ), manifest


def looked_among(asked: NearestRealConfig, fraction: float) -> dict[str, Any]:
    """Say among how many images the nearest is looked for, for the manifest."""
    there_are = num_trained_on(asked.staged, fraction)
    searched = min(asked.max_rows or there_are, there_are)
    return {"staged": asked.staged.uri, "held_out": fraction, "searched": searched, "trained_on": there_are}


def with_reference(
    ready: Parts, settings: GeneratorConfig, asked: NearestRealConfig | None, fraction: float
) -> Parts:
    """Give the stage of `nearest_stage` the images that the generator learned from, where there is something to compute.

    Raises
    ------
    ConfigError
        If there are fewer than two.
    """
    if asked is None or not ready.pending:
        return ready
    found = learned_from(asked.staged, settings, asked, fraction, asked.max_rows)
    if len(found.ids) < 2:
        got, expected = f"{len(found.ids)} with split_hash of {fraction:g} or more", "at least 2"
        raise ConfigError("too few images were trained on to compare with", asked.staged.uri, got, expected)
    stages = (
        replace(stage, reference=found.trained, object_ids=found.ids)
        if isinstance(stage, NearestReal)
        else stage
        for stage in ready.stages
    )
    return replace(ready, stages=tuple(stages))
