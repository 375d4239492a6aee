"""Try settings of the model and of its training, and write the best as a configuration that `train` takes as it is.

Each trial is the run that `train` would make of its settings, on the same staged rows and with the same name. So a
study that was stopped goes on when the same line is run again, and training with the best settings finds its run
done, unless it was stopped early; then it goes on with that.
"""

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from engine import cluster
from engine import config as engine_config
from engine.commit import Manifest, read_manifest
from engine.errors import ConfigError
from engine.locations import is_object
from engine.search import TuneConfig, points
from engine.storage import Storage, canonical
from engine.tune import Trial, TrialResult, best_of, study
from jobs import train
from jobs.config import JobConfig, load, model_of
from jobs.job import JobResult, Options
from jobs.toml_text import to_toml

_logger = logging.getLogger(__name__)

TUNABLE = ("model.settings.", "train.")
"""Beginnings of names of settings that a study may change."""


def run(options: Options) -> JobResult:
    """Try the points of `[tune]` on `[staged]`, and write the best configuration."""
    config = load(options, "staged", "tune")
    assert config.staged is not None
    assert config.tune is not None
    check_space(config, config.tune, options.target)
    values = points(config.tune.space, config.tune.num_trials, config.tune.seed)
    configs = [with_values(config, point, options.target) for point in values]
    if options.plan:
        return JobResult({"trials": values, "metric": config.tune.metric}, [_text(point) for point in values])
    storage = Storage(config.staged.storage)
    manifest = read_manifest(config.staged.uri, storage)
    results = _study(config, configs, values, manifest, options.limit)
    best = best_of(results)
    _write(configs[best.number], config.tune.best, config)
    summary = {"metric": config.tune.metric, "trials": [_facts(r) for r in results], "best": best.number,
               "objective": best.objective, "configuration": config.tune.best}  # fmt: skip
    said = f"best: trial {best.number}, {config.tune.metric} {best.objective:.5g}: python -m jobs train {config.tune.best}"
    return JobResult(summary, [*table(results, config.tune.metric), said])


def check_space(config: JobConfig, study: TuneConfig, where: str) -> None:
    """Refuse a space with settings that there are not, or bounds that the model or the training does not allow.

    Raises
    ------
    ConfigError
        Naming the setting and what is wrong with it.
    """
    for name, allowed in study.space.items():
        if not name.startswith(TUNABLE):
            raise ConfigError(
                "cannot be tried", f"{where}: tune.space.{name}", expected=f"{' or '.join(TUNABLE)}..."
            )
        for value in allowed.corners():
            try:
                model_of(with_values(config, {name: value}, where))
            except ConfigError as error:
                raise ConfigError(f"cannot be {value!r}: {error.what}", f"{where}: tune.space.{name}",
                                  error.got, error.expected) from None  # fmt: skip


def with_values(config: JobConfig, values: Mapping[str, Any], where: str) -> JobConfig:
    """Return the configuration with settings by dotted names in place of its own, without `[tune]`."""
    tree = config.model_dump(mode="json", exclude_unset=True, exclude={"tune"})
    tree = copy.deepcopy(tree)
    for name, value in values.items():
        *parents, last = name.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return engine_config.validate(JobConfig, tree, where)


def _study(
    config: JobConfig,
    configs: Sequence[JobConfig],
    values: Sequence[dict[str, Any]],
    manifest: Manifest,
    limit: int | None,
) -> list[TrialResult]:
    assert config.staged is not None
    assert config.tune is not None
    trials = []
    for number, (one, point) in enumerate(zip(configs, values, strict=True)):
        data = train.training_data(one, manifest, limit)
        one = train.measured(train.surveyed(one, data)[0], data)
        spec, settings = model_of(one)
        task = partial(spec.task, settings, one.seed)
        trials.append(Trial(number, point, task, data, one.train, train.identity_of(one)))
    with cluster.connect(config.cluster, has_dashboard=True):  # trials are stopped from outside
        storage, may_grow = Storage(config.staged.storage), config.cluster.may_grow
        return study(trials, config.tune, train.runs_uri(config), storage, _tell, may_grow=may_grow)


def table(results: Sequence[TrialResult], metric: str) -> list[str]:
    """Lay the trials out as text, the best first."""
    names = list(results[0].values)
    head = ["trial", metric, "epoch", "of", "status", *(name.rpartition(".")[2] for name in names)]
    ordered = sorted(results, key=lambda r: (math.isnan(r.objective), r.objective))
    rows = [
        [
            str(r.number),
            f"{r.objective:.5g}",
            str(r.epoch),
            str(r.epochs),
            r.status,
            *(_number(r.values[n]) for n in names),
        ]
        for r in ordered
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]
    ]
    return lines + [f"trial {r.number} failed: {r.error}" for r in ordered if r.error]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(point: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} = {_number(value)}" for name, value in point.items())


def _facts(result: TrialResult) -> dict[str, Any]:
    """Facts of a trial for JSON, which has no NaN."""
    facts = asdict(result)
    return facts | {"objective": result.objective if math.isfinite(result.objective) else None}


def _tell(result: TrialResult) -> None:
    _logger.info(
        "trial %d %s after %d epochs: %.5g", result.number, result.status, result.epochs, result.objective
    )


def _write(best: JobConfig, uri: str, config: JobConfig) -> None:
    """Write a configuration; on object storage by the access that the staged data have."""
    assert config.staged is not None
    text = to_toml(best.model_dump(mode="json", exclude_unset=True))
    Storage(config.staged.storage if is_object(uri) else None).put(canonical(uri), text.encode())
