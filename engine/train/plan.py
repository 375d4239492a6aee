"""What is trained on what, before Ray or torch come in: settings, files, sizes, the name of the run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.config import Config
from engine.errors import ConfigError
from engine.infer import Device
from engine.locations import canonical
from engine.storage import Storage
from engine.train.standins import StandIns
from engine.units import FileRef, content_hash

MIX_SIGMAS = 4.0
"""How far the number of batches of a set may be above its mean before the epoch ends early: once in 30,000."""
ROWS_A_JUDGED_ROW = 64
"""Rows of a validation batch for each that it must have: a distance of few is mostly chance, and so is the mean of many such."""
MIX_SLACK = 1.1
"""Rows that are read above those that are drawn: how many train is known only by the hash of each."""


@dataclass(frozen=True)
class MixPlan:
    """How the batches of an epoch are drawn from two sets; see `engine.train.mixing`.

    Parameters
    ----------
    alpha
        Probability that a batch is of the other set.
    steps
        Batches of an epoch.
    keep
        Share of the rows of each set, the first and the other, that goes on in an epoch: each time other ones.
    """

    alpha: float
    steps: int
    keep: tuple[float, float]


@dataclass(frozen=True)
class EpochPlan:
    """What does not change between epochs.

    Parameters
    ----------
    columns
        Columns that the task reads.
    batch_rows
        Rows of a batch of one process.
    buffer_rows
        Rows of the shuffle buffer of one process.
    validation_fraction, monitored_fraction
        See `engine.train.batches.Splitter`.
    seed
        Of the shuffle.
    mix
        How another set is mixed in; None: there is none.
    least_evaluated_rows
        Rows of a validation batch, where they are more than `batch_rows`.
    """

    columns: tuple[str, ...]
    batch_rows: int
    buffer_rows: int
    validation_fraction: float
    monitored_fraction: float
    seed: int
    mix: MixPlan | None = None
    least_evaluated_rows: int = 0

    @property
    def evaluated_rows(self) -> int:
        """Rows of a validation batch of one process."""
        return max(self.batch_rows, self.least_evaluated_rows)


class TrainConfig(Config):
    """How a model is trained; what the model learns with is in its own configuration."""

    epochs: int = Field(default=20, ge=1)
    """Passes over the training rows, at most."""
    global_batch_rows: int = Field(default=256, ge=1)
    """Rows of a step, over all workers."""
    num_workers: int = Field(default=1, ge=1)
    """Processes that train together."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    """CPUs that a worker reserves; reading needs some beside it."""
    read_cpus: float = Field(default=0.5, gt=0)
    """CPUs that a reading task reserves; 1 serves better where reading makes the rows (`contaminate`)."""
    threads_per_worker: int = Field(default=0, ge=0)
    """Threads of torch; 0: the cores of the machine divided by its workers, half of that where reading makes the rows
    (`contaminate`)."""
    device: Device = "auto"
    """auto: a GPU for each worker if the cluster has them; on one that grows by itself (cluster.may_grow) CPUs."""
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Rows with split_hash below it never train."""
    max_validation_rows: int = Field(default=4096, ge=1)
    """About so many of them (62 kB each at 7781 pixels) are held in memory and evaluated each epoch."""
    shuffle_buffer_rows: int = Field(default=4096, ge=1)
    """Rows that a worker holds to draw random batches from."""
    early_stop_patience: int = Field(default=0, ge=0)
    """Stop after so many epochs in a row without gain; 0: never."""
    early_stop_min_delta: float = Field(default=0.0, ge=0)
    """Smallest decrease of the monitored loss that counts as gain."""
    checkpoint_every_epochs: int = Field(default=1, ge=1)
    """Epochs between stored states; the last one is always stored."""
    checkpoints_to_keep: int = Field(default=2, ge=1)
    """Newest states that stay in storage; each holds the best weights as well."""
    max_failures: int = Field(default=2, ge=0)
    """Times that lost workers are replaced and go on from the newest state."""
    seed: int = Field(default=0, ge=0)
    """Of the order of files and rows."""


class Realisations(Protocol):
    """Makes the rows that a task reads out of staged ones, several times in an epoch, each time others.

    The next epoch has the same ones.
    """

    @property
    def count(self) -> int:
        """Realisations of each staged row in an epoch."""
        ...

    def reads(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Staged columns that rows with `columns` are made of."""
        ...

    def __call__(self, table: pa.Table, number: int) -> pa.Table:
        """Return the rows of a realisation, 0 to `count` - 1, the same whenever they are asked for."""
        ...


@dataclass(frozen=True)
class TrainData:
    """What is read in an epoch.

    Parameters
    ----------
    files
        Staged Parquet.
    num_rows
        Rows of an epoch: those of all files, times the realisations of each.
    columns
        Columns that the task reads.
    realisations
        What makes them of the staged ones; None: they are staged as they are.
    stand_ins
        What takes the place of columns that the set lacks or calls otherwise; None: it has them all.
    mix
        Another set that is mixed in; None: there is none.
    judged_rows
        Fewest rows of a validation batch that the task gives a loss of; 0: any.
    """

    files: tuple[FileRef, ...]
    num_rows: int
    columns: tuple[str, ...]
    realisations: Realisations | None = None
    stand_ins: StandIns | None = None
    mix: "Mix | None" = None
    judged_rows: int = 0


@dataclass(frozen=True)
class Mix:
    """Another staged set, such as generated images, that takes the place of some batches of the first.

    Parameters
    ----------
    data
        Its rows, of the same columns or with something that stands in for them.
    alpha
        Probability that a batch is of it.
    storage
        How to reach it.
    """

    data: TrainData
    alpha: float
    storage: Storage


@dataclass(frozen=True)
class TrainResult:
    """What training gave.

    Parameters
    ----------
    weights
        State of the modules after the best epoch, see `engine.train.epochs.module_weights`.
    metrics
        Metrics of the best epoch, with `epoch` counted from 1.
    history
        Metrics of each epoch.
    step_losses
        Loss of each step of worker 0.
    run_id
        Name of the run's folder.
    stopped
        Why it ended before all epochs; empty if it did not.
    """

    weights: dict[str, np.ndarray]
    metrics: dict[str, float]
    history: list[dict[str, float]]
    step_losses: list[float]
    run_id: str
    stopped: str = ""


def ordered_files(data: TrainData, seed: int) -> list[FileRef]:
    """Return the files in the order in which they are read: a permutation that depends on the seed."""
    files = sorted(data.files, key=lambda file: canonical(file.uri))
    return [files[i] for i in np.random.default_rng([seed, len(files)]).permutation(len(files))]


def expected_steps(num_rows: int, config: TrainConfig) -> int:
    """Estimate the steps of all epochs; schedules are laid out over them."""
    training = num_rows * (1 - config.validation_fraction)
    return config.epochs * max(1, int(training / config.global_batch_rows))


def epoch_plan(data: TrainData, config: TrainConfig) -> EpochPlan:
    """Sizes of one worker's epoch."""
    fraction = min(config.validation_fraction, config.max_validation_rows / max(data.num_rows, 1))
    steps = expected_steps(data.num_rows, config) // config.epochs
    return EpochPlan(
        columns=data.columns,
        batch_rows=config.global_batch_rows // config.num_workers,
        buffer_rows=config.shuffle_buffer_rows,
        validation_fraction=config.validation_fraction,
        monitored_fraction=fraction,
        seed=config.seed,
        mix=mix_plan(data.mix, data.num_rows, steps, config) if data.mix else None,
        least_evaluated_rows=ROWS_A_JUDGED_ROW * data.judged_rows,
    )


def mix_plan(mix: Mix, num_rows: int, steps: int, config: TrainConfig) -> MixPlan:
    """Lay a mixed epoch out: as many steps as without, and of each set little more rows than they will take."""
    training = 1 - config.validation_fraction
    other_rows = mix.data.num_rows * mix_passes(mix, steps, config)
    first, other = (
        min(1.0, _drawn(share, steps) * config.global_batch_rows / (rows * training))
        for share, rows in ((1 - mix.alpha, num_rows), (mix.alpha, other_rows))
    )
    return MixPlan(mix.alpha, steps, (first, other))


def mix_passes(mix: Mix, steps: int, config: TrainConfig) -> int:
    """Count how often the other set is read in an epoch: more than once if it is smaller than what is drawn of it."""
    rows = mix.data.num_rows * (1 - config.validation_fraction)
    return max(1, math.ceil(_drawn(mix.alpha, steps) * config.global_batch_rows / rows))


def _drawn(share: float, steps: int) -> float:
    """Batches that a set must hold so that an epoch in which each step takes one with this probability can end."""
    return MIX_SLACK * (share * steps + MIX_SIGMAS * (steps * share * (1 - share)) ** 0.5 + 1)


def check_rows(data: TrainData, config: TrainConfig) -> None:
    """Check that there are rows for a batch, a batch for each worker, and rows to judge by; `ConfigError` if not."""
    if config.global_batch_rows % config.num_workers:
        raise ConfigError(
            "batch does not divide among the workers",
            "train.global_batch_rows",
            got=f"{config.global_batch_rows} rows, {config.num_workers} workers",
            hint="Choose a multiple of train.num_workers.",
        )
    training = round(data.num_rows * (1 - config.validation_fraction))
    if training < config.global_batch_rows:
        raise ConfigError(
            "fewer training rows than one batch",
            "train.global_batch_rows",
            got=f"{training} rows in {len(data.files)} files",
            expected=f"at least {config.global_batch_rows}",
            hint="Ingest more objects or lower train.global_batch_rows.",
        )
    if data.mix and data.mix.data.num_rows * (1 - config.validation_fraction) < config.global_batch_rows:
        raise ConfigError(
            "fewer rows to mix in than one batch",
            "mix.staged",
            got=f"{data.mix.data.num_rows} rows in {len(data.mix.data.files)} files",
            expected=f"at least {config.global_batch_rows} that train",
            hint="Make more samples or lower train.global_batch_rows.",
        )
    _check_judged(data, config)


def _check_judged(data: TrainData, config: TrainConfig) -> None:
    """Check that each worker holds out enough rows for a loss, twice what is needed: how many is known by hashes only."""
    rows = epoch_plan(data, config).monitored_fraction * data.num_rows / config.num_workers
    if rows < 2 * data.judged_rows:
        raise ConfigError(
            "too few validation rows to choose the best epoch by: the model is judged by a distance between sets",
            "train.validation_fraction",
            got=f"about {rows:.0f} for each of {config.num_workers} workers",
            expected=f"at least {2 * data.judged_rows}",
            hint="Raise it or train.max_validation_rows, ingest more objects, or lower train.num_workers.",
        )


def run_name(data: TrainData, config: TrainConfig, identity: Mapping[str, Any]) -> str:
    """Return a hash of everything that changes the result: settings, files, and `identity` (the model)."""
    # Where and how often it is tried does not change the result; everything else names the run.
    settings = config.model_dump(exclude={"max_failures", "checkpoints_to_keep", "read_cpus"})
    facts: list[Any] = [settings, sorted(map(asdict, data.files), key=str), data.columns, identity]
    if data.mix:
        facts += [data.mix.alpha, sorted(map(asdict, data.mix.data.files), key=str)]
        facts += [sorted(data.mix.data.stand_ins.given.items())] if data.mix.data.stand_ins else []
    facts += [ROWS_A_JUDGED_ROW * data.judged_rows] if data.judged_rows else []
    return content_hash(facts, size=10)
