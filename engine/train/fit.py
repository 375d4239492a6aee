"""After training: stream samples of the staged objects through what scoring fits (neighbours, percentiles)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.config import Config
from engine.errors import ConfigError
from engine.infer import Device, choose_device
from engine.locations import canonical
from engine.schema import Arrays
from engine.storage import Storage
from engine.train.batches import SPLIT_COLUMN, read_tables, sequential_batches

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec


MORE_ROWS = "Stage more objects, or raise train.validation_fraction."


class FitConfig(Config):
    """How many objects scoring learns from."""

    reference_rows: int = Field(default=20_000, ge=1)
    """Training objects at most: what the neighbours are searched in."""
    held_out_rows: int = Field(default=20_000, ge=1)
    """Validation objects at most: what percentiles are counted against."""
    min_held_out_rows: int = Field(default=30, ge=1)
    """Fewest validation objects to be expected before a training starts; fewer make no percentiles."""
    injected_rows: int = Field(default=3_000, ge=0)
    """Anomalies injected into validation spectra, from which `artefact_probability` is learned; 0: none, it is NaN then.
    It knows the kinds that are injected and no others: `engine.synthetic.injected`. 10 ms each at most."""
    batch_rows: int = Field(default=512, ge=1)
    """Objects that go through the network at once."""
    seed: int = Field(default=0, ge=0)
    """Of the order in which files are taken until there are enough rows."""


@dataclass(frozen=True)
class SampleBatches:
    """Batches of one side of the split, at most `max_rows` rows; can be iterated again.

    Files come in the order given and are read no further than needed, so give them shuffled.
    """

    uris: tuple[str, ...]
    columns: tuple[str, ...]
    storage: Storage
    validation_fraction: float
    is_validation: bool
    max_rows: int
    batch_rows: int

    def __iter__(self) -> Iterator[Arrays]:
        return sequential_batches(self._tables(), self.columns, self.batch_rows)

    def _tables(self) -> Iterator[pa.Table]:
        left = self.max_rows
        for table in read_tables(self.uris, [*self.columns, SPLIT_COLUMN], self.storage):
            is_below = table[SPLIT_COLUMN].to_numpy() < self.validation_fraction
            rows = table.filter(pa.array(is_below == self.is_validation))[:left]
            yield rows
            left -= rows.num_rows
            if not left:
                return


def check_held_out(num_rows: int, validation_fraction: float, settings: FitConfig, where: str) -> None:
    """Check before a training that it leaves enough to calibrate scores with afterwards.

    Parameters
    ----------
    num_rows
        Staged objects.
    validation_fraction
        Share of them that is held out.
    where
        Where they are staged, for the message.

    Raises
    ------
    ConfigError
        If about `num_rows * validation_fraction` is less than `settings.min_held_out_rows`.
    """
    expected = num_rows * validation_fraction
    if expected < settings.min_held_out_rows:
        raise ConfigError(
            "too few objects would be held out to calibrate scores",
            where,
            got=f"about {expected:.0f} of {num_rows}",
            expected=f"scoring.min_held_out_rows = {settings.min_held_out_rows}",
            hint=MORE_ROWS,
        )


def fit_scoring(
    spec: "ModelSpec",
    config: Any,
    module: "nn.Module",
    uris: Iterable[str],
    storage: Storage,
    validation_fraction: float,
    settings: FitConfig,
    device: Device = "auto",
) -> dict[str, np.ndarray]:
    """Run `spec.fit` over samples of staged Parquet.

    Parameters
    ----------
    config, module
        Settings of the model, and the trained module (see `engine.infer.open_model`).
    uris
        Staged files, all of them: they are shuffled here.
    validation_fraction
        That of the training: rows with `split_hash` below it are held out.

    Returns
    -------
    dict
        The arrays that go into the checkpoint as `fitted`.

    Raises
    ------
    ConfigError
        If nothing is held out: percentiles of objects that were trained on would flatter; or too few objects
        are left for what the model fits.
    """
    if validation_fraction <= 0:
        raise ConfigError(
            "no objects are held out to calibrate scores", "train.validation_fraction", expected="above 0"
        )
    reference, held_out = samples(spec, config, uris, storage, validation_fraction, settings)
    try:
        return spec.fit(config, module.to(choose_device(device)), reference, held_out)
    except ValueError as error:
        raise ConfigError(
            "scores cannot be calibrated", f"model '{spec.name}'", got=str(error), hint=MORE_ROWS
        ) from error


def samples(
    spec: "ModelSpec",
    config: Any,
    uris: Iterable[str],
    storage: Storage,
    validation_fraction: float,
    settings: FitConfig,
) -> tuple[SampleBatches, SampleBatches]:
    """Return what shows `spec.fit` the normal, and what was held out; see `fit_scoring`."""
    files = sorted(map(canonical, uris))
    order = np.random.default_rng([settings.seed, len(files)]).permutation(len(files))
    columns = dict.fromkeys(column.name for column in spec.learns_from(config))
    common = (tuple(files[i] for i in order), tuple(columns), storage, validation_fraction)
    reference = SampleBatches(*common, False, settings.reference_rows, settings.batch_rows)
    return reference, SampleBatches(*common, True, settings.held_out_rows, settings.batch_rows)
