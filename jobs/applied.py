"""Checkpoints as a job applies them: opened, checked against each other, made into stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.checkpoint import Checkpoint
from engine.checkpoint import load as load_checkpoint
from engine.config import validate
from engine.errors import CheckpointError, ConfigError
from engine.images.prepare import CutoutPrep
from engine.infer import InferStage, open_model
from engine.spectra.explain import NameLines
from engine.spectra.prepare import SpectrumPrep
from engine.stage import PrepareConfig, Resources, Stage
from engine.storage import Storage
from jobs.config import InferConfig, JobConfig, Place
from models import MODELS
from models.spec import ModelSpec


@dataclass(frozen=True)
class Applied:
    """A checkpoint, where it is from, and the model that it was made for."""

    place: Place
    checkpoint: Checkpoint
    spec: ModelSpec

    def stage(self, infer: InferConfig) -> InferStage:
        """Return the stage that applies it."""
        return InferStage.from_checkpoint(
            self.spec,
            self.place.uri,
            self.place.storage,
            batch_rows=infer.batch_rows,
            device=infer.device,
            precision=infer.precision,
            resources=Resources(infer.num_cpus, infer.num_gpus, infer.memory_gib),
        )


def open_all(config: JobConfig) -> list[Applied]:
    """Open what is applied, in order: `upstream`, then `checkpoint`.

    Raises
    ------
    CheckpointError
        If one cannot be used here, or they want rows that are prepared differently.
    """
    if config.checkpoint is None:
        raise ConfigError("section [checkpoint] is missing", expected="checkpoint.uri = 'checkpoints/...'")
    applied = [open_one(place) for place in (*config.upstream, config.checkpoint)]
    last = applied[-1]
    _check_prepared_alike(applied[:-1], last.checkpoint.prepare, last.place.uri)
    return applied


def open_upstream(config: JobConfig) -> list[Applied]:
    """Open what is applied to rows before they are staged: `upstream`.

    Raises
    ------
    CheckpointError
        If one cannot be used here, or wants rows that are prepared otherwise than `[prepare]` says.
    """
    applied = [open_one(place) for place in config.upstream]
    _check_prepared_alike(applied, config.prepare, "[prepare]")
    return applied


def _check_prepared_alike(applied: Sequence[Applied], prepare: dict[str, Any], where: str) -> None:
    for other in applied:
        if other.checkpoint.prepare != prepare:
            raise CheckpointError(
                "checkpoints that are applied together want rows prepared differently", other.place.uri,
                str(other.checkpoint.prepare), f"{prepare}, as {where}",
                "Train both on rows of one `ingest`.",
            )  # fmt: skip


def open_one(place: Place) -> Applied:
    """Load a checkpoint and find the model that it was made for.

    Raises
    ------
    CheckpointError
        If there is none, or it is of no model, or another version of one, that is here.
    """
    checkpoint = load_checkpoint(place.uri, Storage(place.storage))
    spec = MODELS.get(checkpoint.model)
    if spec is None:
        raise CheckpointError(
            "made for a model that is not here", place.uri, checkpoint.model, ", ".join(MODELS)
        )
    if checkpoint.model_version != spec.version:
        raise CheckpointError(
            "made by another version of the model", place.uri,
            str(checkpoint.model_version), str(spec.version), "Train it again.",
        )  # fmt: skip
    _try_out(spec, checkpoint, place.uri)
    return Applied(place, checkpoint, spec)


def _try_out(spec: ModelSpec, checkpoint: Checkpoint, where: str) -> None:
    """Open a checkpoint as a worker will, so that what does not fit is told before any starts."""
    config, module = open_model(spec, checkpoint, where)
    try:
        spec.predictor(config, module, checkpoint.fitted, torch.device("cpu"))
    except ValueError as error:
        raise CheckpointError(
            "lacks what scoring fits, or has it of other settings", where, str(error),
            hint="Train it again, or refit it with the version of the code that applies it.",
        ) from error  # fmt: skip


def prepare_config(config: JobConfig, applied: Sequence[Applied]) -> PrepareConfig:
    """Return how rows of the release are to be prepared: as what is applied was trained."""
    assert config.release is not None
    last = applied[-1]
    return validate(config.release.kind.prepare_class, last.checkpoint.prepare, f"{last.place.uri}: prepare")


def stages(config: JobConfig, applied: Sequence[Applied]) -> tuple[Stage, ...]:
    """Return the stages that prepare the rows of the release, apply the checkpoints to them, and explain scores."""
    prepare, last = prepare_config(config, applied), applied[-1].stage(config.infer)
    named = NameLines.of(prepare.frame, last.provides) if isinstance(prepare, SpectrumPrep) else None
    return *stages_before(config, applied), last, *((named,) if named else ())


def stages_before(config: JobConfig, applied: Sequence[Applied]) -> tuple[Stage, ...]:
    """Return the stages whose rows the last checkpoint is applied to."""
    prepare = prepare_config(config, applied)
    measured = (config.morphology.stage(_size(prepare)),) if config.morphology else ()
    return prepare.stage, *(one.stage(config.infer) for one in applied[:-1]), *measured


def _size(prepare: PrepareConfig) -> int:
    """Pixels a side of the cutouts that `[morphology]` measures."""
    if not isinstance(prepare, CutoutPrep):
        raise ConfigError("[morphology] measures cutouts of images", expected="a source of images")
    return prepare.size
