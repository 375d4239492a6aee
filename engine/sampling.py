"""A generator as a stage: seeds in, mini-batches through the network, images and their latents out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.checkpoint import Checkpoint, read_header
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
STEPS = Column("steps", "int32", "Steps of the solver that made the sample; there where they were asked for")

Draw = Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]
"""(what the checkpoint has fitted, seeds [N]) to conditions [N, K], one drawn for each seed."""


@dataclass(frozen=True)
class SampleStage:
    """Generate an image for each seed of a unit. Make one with `from_checkpoint`.

    A sample is made again, bit for bit on one machine type with the same versions of torch and numpy and as many
    threads, from its seed, its condition and the checkpoint, and `steps` where they were asked for: `sampled_again`.

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
    steps
        Steps of the solver, which `config` has, where they were asked for; 0: as the checkpoint says.
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
    steps: int = 0
    device: Device = "auto"
    resources: Resources = field(default_factory=Resources)

    @classmethod
    def from_checkpoint(
        cls,
        spec: "ModelSpec",
        checkpoint_uri: str,
        options: StorageOptions,
        draw: Draw,
        steps: int = 0,
        **settings: Any,
    ) -> "SampleStage":
        """Read the checkpoint's JSON and make the stage; the weights are read by `open`.

        Raises
        ------
        CheckpointError
            If it is not a checkpoint of this model and version, or the model generates nothing, or has no solver and
            `steps` are asked for.
        """
        import torch

        header = read_header(checkpoint_uri, Storage(options), spec.name, spec.version)
        if steps and STEPS.name not in spec.sampled_with:
            raise CheckpointError(
                "the generator has no solver whose steps could be chosen", checkpoint_uri, f"{spec.name}, steps {steps}",
                "a generator that solves an equation, as image_flow", "Take augment.steps out of the configuration.",
            )  # fmt: skip
        asked = {STEPS.name: steps} if steps else {}
        config = model_config(spec, {**header.config, **asked}, checkpoint_uri, CheckpointError)
        if spec.sampler is None:
            raise CheckpointError(
                "the model generates nothing", checkpoint_uri, spec.name, "a generator of images",
                "Give [checkpoint] that of a model of models.generators.",
            )  # fmt: skip
        num_latent = spec.sampler(config, spec.build(config), torch.device("cpu")).num_latent
        return cls(
            spec, config, checkpoint_uri, header.id, num_latent, draw, options, steps=steps, **settings
        )

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
        steps = (STEPS,) if self.steps else ()
        return (CHECKPOINT_ID, *steps, *self.told, image, latent)

    def open(self) -> UnitFunction:
        """Load the checkpoint, build the network and return the function that samples a unit."""
        checkpoint = load_planned(self.spec, self.checkpoint_uri, self.checkpoint_id, self.options)
        return _Generator(self, self.sampler(checkpoint), checkpoint.fitted)

    def sampler(self, checkpoint: Checkpoint) -> "Sampler":
        """Build the network of the checkpoint, with the steps that are asked for."""
        assert self.spec.sampler is not None
        _, module = open_model(self.spec, checkpoint, self.checkpoint_uri)
        return self.spec.sampler(self.config, module, choose_device(self.device))

    @property
    def told(self) -> tuple[Column, ...]:
        """Conditions of the generator, which rows have."""
        return self.spec.reads(self.config)[1:]

    def conditions(self, fitted: Mapping[str, np.ndarray], seeds: np.ndarray) -> np.ndarray | None:
        """Conditions [N, K] of seeds: those that are set, the others drawn; None if the generator has none."""
        names = [column.name for column in self.told]
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
        if column.name == STEPS.name:
            return pa.array([self._stage.steps] * num_rows, pa.int32())
        if column.name in made:
            return column_array(column, made[column.name])
        assert condition is not None
        names = [c.name for c in self._stage.told]
        return column_array(column, condition[:, names.index(column.name)])


def sampled_again(
    spec: "ModelSpec",
    checkpoint_uri: str,
    rows: pa.Table,
    options: StorageOptions | None = None,
    device: Device = "cpu",
) -> dict[str, np.ndarray]:
    """Make samples again from their rows: their seeds, conditions, and steps of the solver where rows have them.

    Parameters
    ----------
    spec, checkpoint_uri
        The generator, and the checkpoint that rows name by `checkpoint_id`.
    rows
        Of the catalogue, at least one; `image` and `latent` need not be there.
    options
        How to reach storage.
    device
        That of the job, as the number of torch's threads: others round otherwise.

    Returns
    -------
    dict
        `image` [N, C * S * S] and `latent` [N, D].

    Raises
    ------
    CheckpointError
        If rows are of another checkpoint.
    ValueError
        If they were not all made with as many steps.
    """
    steps = set(rows[STEPS.name].to_pylist()) if STEPS.name in rows.column_names else {0}
    if len(steps) != 1:
        raise ValueError(f"steps are {sorted(steps)}, must be the same for all of {len(rows)} rows")
    stage = SampleStage.from_checkpoint(
        spec, checkpoint_uri, options or StorageOptions(), _not_drawn, steps=steps.pop(), device=device
    )
    for checkpoint_id in set(rows[CHECKPOINT_ID.name].to_pylist()):
        checkpoint = load_planned(spec, checkpoint_uri, checkpoint_id, stage.options)
    told = [rows[column.name].to_numpy() for column in stage.told]
    return stage.sampler(checkpoint).sample(rows[SEED.name].to_numpy(), np.stack(told, 1) if told else None)


def _not_drawn(fitted: Mapping[str, np.ndarray], seeds: np.ndarray) -> np.ndarray:
    """Rows have their conditions."""
    raise NotImplementedError
