"""Staged Parquet -> checkpoint: train, keep the best weights, then fit what scoring needs."""

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any

from engine import cluster
from engine.checkpoint import Checkpoint, save
from engine.column import Column
from engine.commit import Manifest, read_manifest
from engine.errors import CheckpointError, ConfigError
from engine.infer import open_model
from engine.schema import arrow_type
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from engine.synthetic.contaminate.rows import Realisations
from engine.train import loop as trainer
from engine.train.batches import SPLIT_COLUMN, Splitter, read_tables, sequential_batches
from engine.train.fit import check_held_out, fit_scoring, samples
from engine.train.kinds import fit_kinds
from engine.train.loop import TrainData, TrainResult
from engine.train.plan import Mix
from engine.train.standins import StandIns
from engine.units import FileRef
from jobs.config import JobConfig, MixConfig, Place, load, model_of
from jobs.job import JobResult, Options
from jobs.provenance import provenance
from models.spec import ModelSpec

_logger = logging.getLogger(__name__)

MEASURED_ROWS, MEASURED_PIECE = 1024, 64
"""Training rows at most that settings are measured on, and those that are held at once."""
SURVEYED_PIECE = 1 << 16
"""Rows of few numbers that are held at once."""


def run(options: Options) -> JobResult:
    """Train the model of `[model]` on `[staged]` and write `[checkpoint]`."""
    return fit(load(options, "staged", "checkpoint"), options)


def fit(config: JobConfig, options: Options) -> JobResult:
    """Train, fit the scoring on the same files, save."""
    assert config.staged is not None
    assert config.checkpoint is not None
    (spec, _), place, storage = model_of(config), config.checkpoint, Storage(config.staged.storage)
    manifest = read_manifest(config.staged.uri, storage)
    data = training_data(config, manifest, options.limit)
    check_held_out(data.num_rows, config.train.validation_fraction, config.scoring, config.staged.uri)
    summary: dict[str, Any] = {"model": spec.name, "files": len(data.files), "rows": data.num_rows,
                               "checkpoint": place.uri}  # fmt: skip
    if data.mix:
        summary |= {"mixed_rows": data.mix.data.num_rows, "alpha": data.mix.alpha}
    if options.plan:
        return JobResult(summary, [f"{key}: {value}" for key, value in summary.items()])
    config, counted = surveyed(config, data)
    config = measured(config, data)
    _, settings = model_of(config)
    result = _train(config, spec, settings, data, storage)
    result = replace(result, metrics={**result.metrics, **counted})
    checkpoint = _checkpoint(config, spec, settings, manifest, result)
    checkpoint = _fitted(config, spec, checkpoint, data)
    save(checkpoint, place.uri, Storage(place.storage))
    summary |= {"id": checkpoint.id, "metrics": result.metrics}
    return JobResult(summary, [f"checkpoint: {place.uri} ({checkpoint.id})"])


def training_data(config: JobConfig, manifest: Manifest, limit: int | None) -> TrainData:
    """Return what the model of a configuration learns from."""
    assert config.staged is not None
    spec, settings = model_of(config)
    realisations = Realisations(config.contaminate) if config.contaminate else None
    columns = spec.learns_from(settings)
    data = _data(config.staged, manifest, columns, realisations, limit)
    data = replace(data, judged_rows=spec.judged_rows)
    return replace(data, mix=_mix(config.mix, columns, realisations)) if config.mix else data


def measured(config: JobConfig, data: TrainData) -> JobConfig:
    """Return the configuration with settings that follow from the training rows, where it does not give them.

    Raises
    ------
    ConfigError
        If they cannot be measured.
    """
    spec, settings = model_of(config)
    given = config.model.settings
    if spec.measure is None or {*spec.measured} <= given.keys():
        return config
    assert config.staged is not None
    uris, columns = sorted(file.uri for file in data.files), [*data.columns, SPLIT_COLUMN]
    tables = read_tables(uris, columns, Storage(config.staged.storage), MEASURED_PIECE)
    rows = Splitter(config.train.validation_fraction, 0.0).training_rows(tables)
    batches = islice(sequential_batches(rows, data.columns, MEASURED_PIECE), MEASURED_ROWS // MEASURED_PIECE)
    try:
        found = spec.measure(settings, batches)
    except ValueError as error:
        raise ConfigError("settings cannot be measured", config.staged.uri, str(error)) from error
    return _with_settings(config, {name: value for name, value in found.items() if name not in given})


def surveyed(config: JobConfig, data: TrainData) -> tuple[JobConfig, dict[str, float]]:
    """Look at all staged rows for what a single one can break, a range; give metrics of them too.

    Raises
    ------
    ConfigError
        If a training would stop at a row.
    """
    spec, settings = model_of(config)
    names = spec.surveyed(settings) if spec.surveyed else ()
    if spec.survey is None or not names:
        return config, {}
    assert config.staged is not None
    uris = sorted(file.uri for file in data.files)
    tables = read_tables(uris, names, Storage(config.staged.storage), SURVEYED_PIECE)
    try:
        found, counted = spec.survey(settings, sequential_batches(tables, names, SURVEYED_PIECE))
    except ValueError as error:
        raise ConfigError("staged rows do not fit the model", config.staged.uri, str(error)) from error
    _logger.info("surveyed: %s", ", ".join(f"{name} = {value:g}" for name, value in counted.items()))
    return (_with_settings(config, found) if found else config), counted


def _with_settings(config: JobConfig, found: Mapping[str, Any]) -> JobConfig:
    """Return the configuration with settings that were found, and say which."""
    _logger.info("measured: %s", ", ".join(f"{name} = {list(value)}" for name, value in found.items()))
    model = config.model.model_copy(update={"settings": {**config.model.settings, **found}})
    return config.model_copy(update={"model": model})


def identity_of(config: JobConfig) -> dict[str, Any]:
    """Return what names a training run beside its data and `[train]`."""
    spec, settings = model_of(config)
    identity = {"model": spec.name, "version": spec.version, "config": asdict(settings)}
    if config.mix and config.mix.clip_below is not None:
        identity |= {"clip_below": config.mix.clip_below}
    return identity | ({"contaminate": config.contaminate.model_dump()} if config.contaminate else {})


def runs_uri(config: JobConfig) -> str:
    """Return the folder of training runs on what is staged."""
    assert config.staged is not None
    return Storage.join(config.staged.uri, "runs")


def _data(
    staged: Place,
    manifest: Manifest,
    columns: tuple[Column, ...],
    realisations: Realisations | None,
    limit: int | None,
) -> TrainData:
    """Find the staged files, and make sure that they hold what the model learns from."""
    made = realisations.provides if realisations else ()
    _check_columns([column for column in columns if column.name not in made], manifest, staged.uri)
    files = [file for file in manifest.files if file.role == "data"][:limit]
    references = [FileRef(Storage.join(staged.uri, f.path), f.num_bytes, f.sha256) for f in files]
    num_rows = sum(f.rows for f in files) * (realisations.count if realisations else 1)
    return TrainData(tuple(references), num_rows, tuple(column.name for column in columns), realisations)


def _mix(config: MixConfig, columns: tuple[Column, ...], realisations: Realisations | None) -> Mix:
    """Find the files of the set that is mixed in."""
    storage = Storage(config.staged.storage)
    manifest = read_manifest(config.staged.uri, storage)
    if not config.columns and config.clip_below is None:
        return Mix(_data(config.staged, manifest, columns, realisations, None), config.alpha, storage)
    _check_stand_ins(config, [column.name for column in columns], realisations)
    given = [(column, config.columns.get(column.name, column.name)) for column in columns]
    read = tuple(
        _as_staged(replace(column, name=name), manifest) for column, name in given if isinstance(name, str)
    )
    data = _data(config.staged, manifest, read, None, None)
    stand_ins = StandIns(columns, config.columns, config.clip_below)
    return Mix(replace(data, columns=stand_ins.names, stand_ins=stand_ins), config.alpha, storage)


def _check_stand_ins(config: MixConfig, names: Sequence[str], realisations: Realisations | None) -> None:
    if unread := sorted(set(config.columns) - set(names)):
        raise ConfigError("the model does not read these", "mix.columns", ", ".join(unread), ", ".join(names))
    if realisations:
        key = "mix.columns" if config.columns else "mix.clip_below"
        hint = "Leave it out: what is mixed in must have all columns, as they are."
        raise ConfigError("nothing can stand in where realisations are made", key, hint=hint)


def _as_staged(column: Column, manifest: Manifest) -> Column:
    """Take a number as it was staged for any number: it is cast when it is read."""
    found = {fields["name"]: Column(**fields) for fields in manifest.columns}.get(column.name, column)
    are_numbers = not (column.length or found.length) and "string" not in (column.dtype, found.dtype)
    return found if are_numbers else column


def _train(
    config: JobConfig, spec: ModelSpec, settings: Any, data: TrainData, storage: Storage
) -> TrainResult:
    with cluster.connect(config.cluster):
        return trainer.train(
            partial(spec.task, settings, config.seed),
            data,
            config.train,
            runs_uri(config),
            storage,
            identity_of(config),
            _tell,
            may_grow=config.cluster.may_grow,
        )


def _checkpoint(
    config: JobConfig, spec: ModelSpec, settings: Any, manifest: Manifest, result: TrainResult
) -> Checkpoint:
    """Return what was trained, before anything is fitted to it."""
    return Checkpoint(
        model=spec.name,
        model_version=spec.version,
        config=asdict(settings),
        prepare=manifest.provenance["config"]["prepare"],
        weights=spec.to_build(settings, result.weights),
        fitted={},
        metrics=result.metrics,
        history=result.history,
        provenance=provenance(config, command=shlex.join(sys.argv), staged=manifest.publish_id),
    )


def _fitted(config: JobConfig, spec: ModelSpec, checkpoint: Checkpoint, data: TrainData) -> Checkpoint:
    """Return the checkpoint with what scoring learns from the staged objects."""
    assert config.staged is not None
    settings, module = open_model(spec, checkpoint, "trained weights")
    uris = [file.uri for file in data.files]
    storage = Storage(config.staged.storage)
    fraction = config.train.validation_fraction
    fitted = fit_scoring(spec, settings, module, uris, storage, fraction, config.scoring)
    checkpoint = replace(checkpoint, fitted=fitted)
    if not (spec.fit_kinds and config.scoring.injected_rows):
        return checkpoint
    _, held_out = samples(spec, settings, uris, storage, fraction, config.scoring)
    prep = SpectrumPrep.model_validate(checkpoint.prepare)
    sizes = (config.scoring.injected_rows, config.scoring.seed)
    arrays, confusion = fit_kinds(spec, settings, module, fitted, held_out, prep, *sizes)
    metrics = {**checkpoint.metrics, **({"artefact_confusion": confusion} if confusion else {})}
    return replace(checkpoint, fitted=fitted | arrays, metrics=metrics)


def _tell(metrics: dict[str, float]) -> None:
    _logger.info("%s", "  ".join(f"{name} {value:.5g}" for name, value in metrics.items()))


def _can_be_read(found: Column, column: Column) -> bool:
    """Whether a staged column is what the model learns from, or whole numbers where it takes any."""
    if column.dtype == "float64" and not column.length and not found.length:
        return found.dtype == "float64" or found.dtype.startswith("int")
    return arrow_type(found) == arrow_type(column)


def _check_columns(columns: Sequence[Column], manifest: Manifest, where: str) -> None:
    staged = {fields["name"]: Column(**fields) for fields in manifest.columns}
    for column in columns:
        found = staged.get(column.name)
        if found is None or not _can_be_read(found, column):
            raise CheckpointError(
                f"the model learns from column '{column.name}' that was not staged so",
                where,
                got=str(arrow_type(found)) if found else ", ".join(staged),
                expected=str(arrow_type(column)),
                hint="Match [model.settings] to [prepare], or run `ingest` again.",
            )
