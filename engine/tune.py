"""Try settings of any `TrainTask`: each trial is a training run of `engine.train`, Ray Tune stops the poor ones early.

Nothing of Tune's own is kept. A trial is the run that `engine.train.loop.train` names by its content, with its states
in storage; a study that was stopped is called again with the same settings: each trial first tells Tune what its run
has on record, so that Tune decides as it did, and then goes on after the last stored epoch. (Tune's own way of
resuming reads pickles from storage.)
"""

import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from engine.errors import ConfigError, EngineError
from engine.locations import canonical
from engine.search import TuneConfig
from engine.storage import Storage
from engine.train.loop import train
from engine.train.plan import TrainConfig, TrainData, run_name
from engine.train.state import Progress, load_progress, stored_epochs

if TYPE_CHECKING:
    from models.spec import TrainTask

logger = logging.getLogger(__name__)

OBJECTIVE = "objective"
TRIAL_CPUS = 0.1
"""CPUs that a trial reserves beside its training run: it only waits for that."""
IDLE = Progress()


@dataclass(frozen=True)
class Trial:
    """One point, made into a training run.

    Parameters
    ----------
    number
        From 0.
    values
        Settings of the point.
    factory, data, config, identity
        As `engine.train.loop.train` takes them.
    """

    number: int
    values: dict[str, Any]
    factory: "Callable[[], TrainTask]"
    data: TrainData
    config: TrainConfig
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial.

    Parameters
    ----------
    number, values
        Of the trial.
    objective
        Smallest value of the metric over its epochs; NaN if there is none.
    epoch, epochs
        When that was, and how many it had.
    status
        finished; stopped: by ASHA; failed.
    error
        Why it failed.
    run_id
        Folder of the training run.
    """

    number: int
    values: dict[str, Any]
    objective: float
    epoch: int
    epochs: int
    status: Literal["finished", "stopped", "failed"]
    error: str
    run_id: str


def study(
    trials: Sequence[Trial],
    config: TuneConfig,
    runs_uri: str,
    storage: Storage,
    on_trial: Callable[[TrialResult], None] = lambda _: None,
    may_grow: bool = False,
) -> list[TrialResult]:
    """Run the trials, poor ones not to the end. Ray must be connected.

    Parameters
    ----------
    trials
        What is tried; at least one.
    config
        Metric, early stopping, concurrency.
    runs_uri
        Folder of training runs, the one that `train` uses.
    storage
        How to reach it.
    on_trial
        Called for each result at the end.
    may_grow
        Whether the cluster makes nodes on demand; see `engine.train.device`.

    Returns
    -------
    results
        In the order of the trials.

    References
    ----------
    Li et al. (2020), MLSys 2, 230: asynchronous successive halving (ASHA).
    """
    epochs = max(trial.config.epochs for trial in trials)
    runs_uri = canonical(runs_uri)  # Tune runs each trial in a folder of its own
    work = tune.with_parameters(
        _run,
        trials=tuple(trials),
        runs_uri=runs_uri,
        storage=storage,
        metric=config.metric,
        may_grow=may_grow,
    )
    scheduler = ASHAScheduler(
        time_attr="epoch",
        max_t=epochs,
        grace_period=min(config.grace_epochs, epochs),
        reduction_factor=config.reduction_factor,
    )
    with tempfile.TemporaryDirectory(prefix="trawl-tune-") as scratch:
        done = tune.Tuner(
            tune.with_resources(work, {"CPU": TRIAL_CPUS}),
            param_space={"number": tune.grid_search([trial.number for trial in trials])},
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE, mode="min", scheduler=scheduler, max_concurrent_trials=config.max_concurrent
            ),
            run_config=tune.RunConfig(name="study", storage_path=scratch, verbose=0),
        ).fit()
    errors = {result.config["number"]: str(result.error) for result in done if result.error and result.config}
    results = [
        outcome(trial, config.metric, runs_uri, storage, errors.get(trial.number, "")) for trial in trials
    ]
    for result in results:
        on_trial(result)
    return results


def best_of(results: Sequence[TrialResult]) -> TrialResult:
    """Return the trial with the smallest objective; `EngineError` if none has one."""
    known = [result for result in results if math.isfinite(result.objective)]
    if not known:
        raise EngineError("no trial has a result", "tune", got=results[0].error if results else "no trials")
    return min(known, key=lambda result: result.objective)


def objective_of(metrics: Mapping[str, float], metric: str) -> float:
    """Value of the metric of an epoch, or sum of several.

    Raises
    ------
    ConfigError
        If the epoch has no such metric.
    """
    names = [name.strip() for name in metric.split("+")]
    unknown = [name for name in names if name not in metrics]
    if unknown:
        known = ", ".join(sorted(metrics))
        raise ConfigError("no such metric", "tune.metric", ", ".join(unknown), known)
    return sum(metrics[name] for name in names)


def outcome(trial: Trial, metric: str, runs_uri: str, storage: Storage, error: str) -> TrialResult:
    """Say what became of a trial: by what its run has on record, and `error`, what Ray Tune tells of it."""
    run_uri = _run_uri(trial, runs_uri)
    progress = _progress(run_uri, storage)
    values = {int(row["epoch"]): objective_of(row, metric) for row in progress.history}
    finite = {epoch: value for epoch, value in values.items() if math.isfinite(value)}
    epoch = min(finite, key=lambda number: finite[number], default=0)
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    diverged = progress.stopped if not finite and progress.stopped else ""
    told = diverged or (lines[-1] if lines else "")
    status = "failed" if told else "finished" if progress.is_finished(trial.config.epochs) else "stopped"
    return TrialResult(
        trial.number, trial.values, finite.get(epoch, math.nan), epoch, progress.epoch, status, told,
        run_uri.rpartition("/")[2],
    )  # fmt: skip


def _run(
    settings: Mapping[str, Any],
    trials: Sequence[Trial],
    runs_uri: str,
    storage: Storage,
    metric: str,
    may_grow: bool,
) -> None:
    """Run a trial inside Tune: first what is on record, then the rest."""
    trial = trials[settings["number"]]
    told = 0

    def tell(metrics: Mapping[str, float]) -> None:
        nonlocal told
        if "epoch" in metrics and metrics["epoch"] > told:  # steps have none
            told = int(metrics["epoch"])
            tune.report({"epoch": told, OBJECTIVE: objective_of(metrics, metric)})

    for metrics in _progress(_run_uri(trial, runs_uri), storage).history:
        tell(metrics)
    train(trial.factory, trial.data, trial.config, runs_uri, storage, trial.identity, tell, may_grow)


def _run_uri(trial: Trial, runs_uri: str) -> str:
    return Storage.join(runs_uri, run_name(trial.data, trial.config, trial.identity))


def _progress(run_uri: str, storage: Storage) -> Progress:
    epochs = stored_epochs(run_uri, storage)
    return load_progress(run_uri, storage, epochs[-1]) if epochs else IDLE
