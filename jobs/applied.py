"""Checkpoints as a job applies them: opened, checked against each other, made into stages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from engine.checkpoint import Checkpoint
from engine.checkpoint import load as load_checkpoint
from engine.config import validate
from engine.errors import CheckpointError, ConfigError
from engine.images.prepare import CutoutPrep
from engine.infer import InferStage, model_config, open_model
from engine.spectra.explain import NameLines
from engine.spectra.prepare import SpectrumPrep
from engine.stage import PrepareConfig, Resources, Stage
from engine.storage import Storage
from jobs.config import InferConfig, JobConfig, ModelConfig, Place, settings_of
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
    ConfigError
        If `[model]` says something else than the last one was trained with.
    """
    applied = [*(open_one(place) for place in config.upstream), open_last(config)]
    last = applied[-1]
    _check_prepared_alike(applied[:-1], last.checkpoint.prepare, last.place.uri)
    return applied


def open_last(config: JobConfig) -> Applied:
    """Open `checkpoint`.

    Raises
    ------
    CheckpointError
        If it cannot be used here.
    ConfigError
        If there is no such section, or `[model]` says something else than it was trained with.
    """
    if config.checkpoint is None:
        raise ConfigError("section [checkpoint] is missing", expected="checkpoint.uri = 'checkpoints/...'")
    applied = open_one(config.checkpoint)
    _check_trained_so(applied, config.model)
    return applied


def _check_trained_so(applied: Applied, model: ModelConfig) -> None:
    """Refuse what `[model]` gives and the checkpoint has otherwise: what is not given is the checkpoint's."""
    checkpoint, where = applied.checkpoint, applied.place.uri
    if "name" in model.model_fields_set and model.name != checkpoint.model:
        raise ConfigError(
            "the checkpoint is of another model",
            "model.name",
            model.name,
            f"{checkpoint.model}, as {where} is",
        )
    trained = asdict(model_config(applied.spec, checkpoint.config, where, CheckpointError))
    others = list(_differences("model.settings", settings_of(applied.spec, model), trained))
    if others:
        raise ConfigError(
            "the checkpoint was trained with other settings",
            ", ".join(key for key, _, _ in others),
            ", ".join(repr(given) for _, given, _ in others),
            f"{', '.join(repr(value) for _, _, value in others)}, as {where} has",
            "Take them out of the configuration, or train a checkpoint with them.",
        )


def _differences(
    key: str, given: Mapping[str, Any], trained: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Key, value that is given, and value of the checkpoint, of each setting that is given otherwise."""
    for name, value in given.items():
        where, other = f"{key}.{name}", trained.get(name, "no such setting")
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from _differences(where, value, other)
        elif _plain(value) != _plain(other):
            yield where, value, other


def _plain(value: Any) -> Any:
    """Sequences as lists, as TOML and JSON have them."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


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
