"""A generator as a stage: seeds in, mini-batches through the network, images and their latents out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.checkpoint import read_header
from engine.column import Column
from engine.errors import CheckpointError
from engine.infer import Device, choose_device, load_planned, model_config, open_model
from engine.rows import FLAGS, SOURCE_ROW, SOURCE_URI
from engine.schema import column_array, set_column
from engine.sources.seeds import SEED
from engine.stage import Resources, UnitFunction, UnitTable
from engine.storage import Storage, StorageOptions

if TYPE_CHECKING:
    from models.spec import ModelSpec, Sampler

IMAGE, LATENT = "image", "latent"
PACKED_LATENT = 513
"""Latents of so many numbers are stored as bytes; the longest published ones of their own are of 512."""
CHECKPOINT_ID = Column("checkpoint_id", "string", "Checkpoint that made the sample")

Draw = Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]
"""(what the checkpoint has fitted, seeds [N]) to conditions [N, K], one drawn for each seed."""


@dataclass(frozen=True)
class SampleStage:
    """Generate an image for each seed of a unit. Make one with `from_checkpoint`.

    A sample is made again, bit for bit on one machine type with the same versions of torch and numpy and as many
    threads, from its seed, its condition and the checkpoint:
    `spec.sampler(config, module, device).sample(seeds, condition)`.

    Parameters
    ----------
    spec, config
        The generator and its settings, as the checkpoint has them.
    checkpoint_uri, checkpoint_id
        Where the checkpoint is and what it held when the job was planned.
    num_latent
        Length of its latents.
    draw
        Gives the conditions of seeds.
    options
        How to reach storage.
    condition
        Conditions that are the same for all samples, by name; the others are drawn.
    device
        "auto" takes a GPU if torch sees one.
    resources
        What one worker asks for.
    """

    spec: "ModelSpec"
    config: Any
    checkpoint_uri: str
    checkpoint_id: str
    num_latent: int
    draw: Draw
    options: StorageOptions = field(default_factory=StorageOptions)
    condition: Mapping[str, float] = field(default_factory=dict)
    device: Device = "auto"
    resources: Resources = field(default_factory=Resources)

    @classmethod
    def from_checkpoint(
        cls,
        spec: "ModelSpec",
        checkpoint_uri: str,
        options: StorageOptions,
        draw: Draw,
        **settings: Any,
    ) -> "SampleStage":
        """Read the checkpoint's JSON and make the stage; the weights are read by `open`.

        Raises
        ------
        CheckpointError
            If it is not a checkpoint of this model and version, or the model generates nothing.
        """
        import torch

        header = read_header(checkpoint_uri, Storage(options), spec.name, spec.version)
        config = model_config(spec, header.config, checkpoint_uri, CheckpointError)
        if spec.sampler is None:
            raise CheckpointError(
                "the model generates nothing", checkpoint_uri, spec.name, "a generator of images",
                "Give [checkpoint] that of a model of models.generators.",
            )  # fmt: skip
        num_latent = spec.sampler(config, spec.build(config), torch.device("cpu")).num_latent
        return cls(spec, config, checkpoint_uri, header.id, num_latent, draw, options, **settings)

    @property
    def name(self) -> str:
        """Name of the generator."""
        return f"sample {self.spec.name}"

    @property
    def requires(self) -> tuple[Column, ...]:
        """Seeds, and what a rejection says."""
        return (SEED, SOURCE_URI, SOURCE_ROW, FLAGS)

    @property
    def provides(self) -> tuple[Column, ...]:
        """The image and the conditions that the generator learned from, its latent, and the checkpoint."""
        text = "What the generator made the image of"
        packed = self.num_latent >= PACKED_LATENT
        latent = Column(LATENT, "float32", text, "", self.num_latent, packed=packed)
        image = replace(self.spec.reads(self.config)[0], name=IMAGE)
        return (CHECKPOINT_ID, *self._conditions, image, latent)

    def open(self) -> UnitFunction:
        """Load the checkpoint, build the network and return the function that samples a unit."""
        assert self.spec.sampler is not None
        checkpoint = load_planned(self.spec, self.checkpoint_uri, self.checkpoint_id, self.options)
        config, module = open_model(self.spec, checkpoint, self.checkpoint_uri)
        sampler = self.spec.sampler(config, module, choose_device(self.device))
        return _Generator(self, sampler, checkpoint.fitted)

    @property
    def _conditions(self) -> tuple[Column, ...]:
        return self.spec.reads(self.config)[1:]

    def conditions(self, fitted: Mapping[str, np.ndarray], seeds: np.ndarray) -> np.ndarray | None:
        """Conditions [N, K] of seeds: those that are set, the others drawn; None if the generator has none."""
        names = [column.name for column in self._conditions]
        if not names:
            return None
        drawn = np.array(self.draw(fitted, seeds), np.float64)
        for column, name in enumerate(names):
            drawn[:, column] = self.condition.get(name, drawn[:, column])
        return drawn


class _Generator:
    """The function that a worker holds: a unit's seeds in, the same rows with images out."""

    def __init__(self, stage: SampleStage, sampler: "Sampler", fitted: Mapping[str, np.ndarray]) -> None:
        self._stage, self._sampler, self._fitted = stage, sampler, fitted

    def __call__(self, unit: UnitTable) -> UnitTable:
        seeds = unit.rows[SEED.name].to_numpy()
        condition = self._stage.conditions(self._fitted, seeds)
        made = self._sampler.sample(seeds, condition)
        images = made[IMAGE]
        rows = unit.rows
        for column in self._stage.provides:
            rows = set_column(rows, column, self._array(column, made, condition, len(seeds)))
        unit = unit.with_rows(rows)
        is_finite = np.isfinite(images).min(1)
        is_constant = np.asarray(images.min(1) == images.max(1))
        unit = unit.reject(~is_finite, "not_finite", "the generator made pixels that are NaN or infinite")
        return unit.reject(
            is_constant[is_finite], "constant_image", "the generator made an image of one value"
        )

    def _array(
        self, column: Column, made: Mapping[str, np.ndarray], condition: np.ndarray | None, num_rows: int
    ) -> pa.Array:
        if column.name == CHECKPOINT_ID.name:
            return pa.array([self._stage.checkpoint_id] * num_rows, pa.string())
        if column.name in made:
            return column_array(column, made[column.name])
        assert condition is not None
        names = [c.name for c in self._stage.spec.reads(self._stage.config)[1:]]
        return column_array(column, condition[:, names.index(column.name)])
