"""Checkpoint of a generator -> catalogue `augmentations`: images, what they were made of, and how good they are.

Units are ranges of seeds, computed and recorded as those of any release: a rerun goes on, more samples are added.
Samples have no position, so HATS does not apply: the catalogue is flat, one per model in `{output.uri}/model={name}`,
one Parquet file a unit. A version holds samples of one checkpoint: those of another one, of the same model, replace them, and
the job says so; a generator of another set needs an `output.uri` of its own. It can be trained on, or mixed into a training, as what `ingest` has staged.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from catalogs.augmentations import NAME
from catalogs.release import checkpoint_ids
from engine.column import Column
from engine.commit import CatalogConfig, Manifest, publish
from engine.errors import CheckpointError, ConfigError
from engine.images.morphology import MeasureMorphology, MorphologyConfig
from engine.images.own_size import has_size
from engine.infer import model_config
from engine.rows import FLAGS
from engine.sampling import IMAGE, LATENT, SampleStage
from engine.sources.seeds import SeedsConfig, SeedSource
from engine.stage import Resources, Stage, check, columns_by_name
from engine.storage import Storage
from jobs import parts, sample_report
from jobs.applied import Applied, open_last
from jobs.config import JobConfig, Place, load
from jobs.faults import judge
from jobs.ingest import AddSplit
from jobs.job import JobResult, Options
from jobs.learned import held_out_fraction, looked_among, nearest_stage, with_reference
from jobs.parts import Parts
from jobs.provenance import provenance
from models.generators.config import GeneratorConfig
from models.generators.images import check_condition
from models.generators.sampling import drawn_conditions

_logger = logging.getLogger(__name__)


def run(options: Options) -> JobResult:
    """Make the samples that have no record, then list all of them in a new version."""
    return sample(load(options, "augment", "checkpoint", "output"), options)


def sample(config: JobConfig, options: Options) -> JobResult:
    """Run `seeds -> generator -> measures -> split -> fragments` and publish the list of files."""
    applied = open_last(config)
    ready = assemble(config, applied, options.limit)
    replaced = replaces(ready.base, applied.checkpoint.id)
    if options.plan:
        planned = parts.plan(ready)
        return replace(planned, lines=[*planned.lines, *replaced])
    for line in replaced:
        _logger.warning("%s", line)
    assert config.augment is not None
    nearest, fraction = config.augment.nearest, held_out_fraction(config, applied.checkpoint)
    settings = _settings_of(applied)
    parts.run(config, [with_reference(ready, settings, nearest, fraction)], "augment")
    computed, ready = len(ready.pending), ready.settled()
    manifest = publish(
        ready.output.uri,
        ready.storage,
        [unit.id for unit in ready.units],
        ready.columns,
        CatalogConfig(name=NAME, kind="flat"),
        provenance(
            config,
            checkpoints={applied.place.uri: applied.checkpoint.id},
            model=applied.spec.name,
            **({"nearest": looked_among(nearest, fraction)} if nearest else {}),
        ),
        units=ready.units,
    )
    return _result(config, ready, computed, manifest, applied)


def replaces(base: Manifest | None, checkpoint_id: str) -> list[str]:
    """Say that samples of another checkpoint are in the current version, which the next one will not have; or nothing."""
    others = [one for one in checkpoint_ids(base.provenance) if one != checkpoint_id] if base else []
    if not base or not others:
        return []
    return [
        f"replaces:   samples of checkpoint {', '.join(others)}, which remain in version {base.version} until it is pruned; "
        f"these are of {checkpoint_id}. A generator of another set needs an output.uri of its own."
    ]


def _result(
    config: JobConfig, ready: Parts, computed: int, manifest: Manifest, applied: Applied
) -> JobResult:
    checkpoint = applied.checkpoint
    verdict = judge(ready.units, [manifest], config.max_rejected_fraction)
    summary = {
        "catalogue": ready.output.uri,
        "version": manifest.version,
        "units": len(ready.units),
        "computed": computed,
        "given_up": list(ready.given_up),
        "rows": manifest.rows,
        "rejected": dict(manifest.rejected),
        "fault_fraction": verdict.fraction,
    }
    lines = [f"samples: {manifest.rows} in version {manifest.version}", *ready.told, *verdict.lines]
    if config.report.enabled and config.staged and manifest.rows:
        fraction = held_out_fraction(config, checkpoint)
        summary["report"] = sample_report.write(
            config, ready.output, manifest, _settings_of(applied), fraction
        )
        lines.append(f"report: {summary['report']}")
    return JobResult(summary, [*lines, f"catalogue: {ready.output.uri}"], verdict.exit_code)


def _settings_of(applied: Applied) -> GeneratorConfig:
    return model_config(applied.spec, applied.checkpoint.config, applied.place.uri, CheckpointError)


def assemble(config: JobConfig, applied: Applied, limit: int | None) -> Parts:
    """Return the pipeline from seeds to samples.

    Raises
    ------
    CheckpointError
        If the checkpoint is not that of a generator, or of one without a solver where steps are asked for.
    ConfigError
        If a condition is not one of its, or lies outside of what it has learned; or images do not fit the measures.
    """
    assert config.augment is not None
    assert config.output is not None
    asked, place = config.augment, applied.place
    resources = Resources(config.infer.num_cpus, config.infer.num_gpus)
    generate = SampleStage.from_checkpoint(
        applied.spec, place.uri, place.storage, drawn_conditions,
        steps=asked.steps, condition=asked.condition, device=config.infer.device, resources=resources,
    )  # fmt: skip
    settings = SeedsConfig(**{name: getattr(asked, name) for name in SeedsConfig.model_fields})
    source = SeedSource(place.uri, place.storage, settings, model=applied.spec.name)
    _check_condition(generate.config, asked.condition)
    fraction = held_out_fraction(config, applied.checkpoint)
    measures, facts = _measures(config, generate.config, fraction)
    (split_by,) = columns_by_name(source.columns, source.split_by)
    stages: tuple[Stage, ...] = (generate, *measures, AddSplit(split_by))
    check(stages, source.columns)
    salt: dict[str, Any] = {
        "job": "augment",
        "checkpoint": applied.checkpoint.id,
        "condition": asked.condition,
        **({"steps": asked.steps} if asked.steps else {}),
        **facts,
    }
    output = Place(
        uri=Storage.join(config.output.uri, f"model={applied.spec.name}"), storage=config.output.storage
    )
    return parts.planned(source, "seeds", stages, columns_of(source, stages), output, salt, limit)


def columns_of(source: SeedSource, stages: Sequence[Stage]) -> tuple[Column, ...]:
    """Order the columns: what names a sample, what it was made with, what was measured, its pixels."""
    made = {column.name: column for stage in stages for column in stage.provides}
    names = columns_by_name(source.columns, *source.staged)
    rest = [column for name, column in made.items() if name not in (*source.staged, IMAGE, LATENT)]
    return (*(c for c in names if c != FLAGS), *rest, FLAGS, made[LATENT], made[IMAGE])


def _check_condition(settings: GeneratorConfig, condition: dict[str, float]) -> None:
    unknown = sorted(condition.keys() - set(settings.conditions))
    if unknown:
        expected = (
            f"of {', '.join(settings.conditions)}" if settings.conditions else "none: it has no conditions"
        )
        raise ConfigError(
            "not a condition of the generator", "augment.condition", ", ".join(unknown), expected
        )
    if not settings.conditions:
        return
    values = [
        condition.get(n, low) for n, low in zip(settings.conditions, settings.condition_low, strict=True)
    ]
    try:
        check_condition(settings, np.array([values]), 1)
    except ValueError as error:
        raise ConfigError(
            "outside of what the generator has learned", "augment.condition", str(error)
        ) from error


def _measures(
    config: JobConfig, settings: GeneratorConfig, fraction: float
) -> tuple[list[Stage], dict[str, Any]]:
    """Stages that measure samples, and what of them changes rows."""
    assert config.augment is not None
    asked, stages, facts = config.augment, list[Stage](), dict[str, Any]()
    if asked.morphology:
        stages.append(_morphology(settings, asked.morphology))
        facts["morphology"] = asked.morphology.model_dump(mode="json")
        facts |= {"at_own_size": True} if has_size(settings.num_channels) else {}
    if asked.nearest:
        stage, manifest = nearest_stage(settings, asked.nearest)
        stages.append(stage)
        facts["nearest"] = asked.nearest.model_dump(mode="json", exclude={"staged"})
        facts["nearest"] |= {"of": manifest.publish_id, "held_out": fraction}
    return stages, facts


def _morphology(settings: GeneratorConfig, asked: MorphologyConfig) -> MeasureMorphology:
    try:
        return MeasureMorphology(settings.size, settings.num_channels, asked)
    except ValueError as error:
        raise ConfigError("images have no such channel", "augment.morphology.channel", str(error)) from error
