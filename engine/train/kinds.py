"""After scoring is fitted: teach it what an artefact looks like, with anomalies injected into what was held out."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.schema import Arrays
from engine.spectra.prepare import SpectrumPrep
from engine.synthetic.injected import inject

if TYPE_CHECKING:
    from torch import nn

    from models.spec import ModelSpec, Predict

logger = logging.getLogger(__name__)

MAX_PASSES = 8
"""Times that a held-out spectrum gets another anomaly at most, where few are held out."""
JUDGED_EVERY = 4
"""Each so many-th spectrum does not teach, but says how often the guess is right."""

Confusion = dict[str, dict[str, int]]
"""Kind of anomaly to how many were taken for an artefact, and for physical."""


@dataclass(frozen=True)
class Injected:
    """Held-out batches with an anomaly in every spectrum; can be iterated again and gives the same.

    `held_out` is passed over until there are `num_rows`, `MAX_PASSES` times at most. Of its spectra those that judge
    (`is_judged`) and those that teach are never the same.
    """

    held_out: Iterable[Arrays]
    prep: SpectrumPrep
    num_rows: int
    seed: int
    is_judged: bool

    def __iter__(self) -> Iterator[Arrays]:
        left = self.num_rows
        for number in range(MAX_PASSES):
            for place, batch in enumerate(self.held_out):
                chosen = (np.arange(len(batch["flux"])) % JUDGED_EVERY == 0) == self.is_judged
                mine = {name: np.asarray(values)[chosen][:left] for name, values in batch.items()}
                rng = np.random.default_rng((self.seed, int(self.is_judged), number, place))
                spoiled = inject(mine, self.prep, rng)
                left -= len(spoiled["flux"])
                if len(spoiled["flux"]):
                    yield spoiled
                if left <= 0:
                    return


def fit_kinds(
    spec: "ModelSpec",
    config: Any,
    module: "nn.Module",
    fitted: Mapping[str, np.ndarray],
    held_out: Iterable[Arrays],
    prep: SpectrumPrep,
    num_rows: int,
    seed: int,
) -> tuple[dict[str, np.ndarray], Confusion]:
    """Fit the guess whether the instrument made an anomaly.

    Parameters
    ----------
    fitted
        What `fit_scoring` returned.
    held_out
        Batches of normal spectra that were not trained on.
    num_rows
        Injected anomalies, of which every `JUDGED_EVERY`-th judges.

    Returns
    -------
    dict, dict
        Arrays that go to `fitted`, and how the kinds were told apart; both empty, with a warning in the log, where there
        are too few spectra that can have an anomaly of either family.
    """
    assert spec.fit_kinds is not None
    num_judged = num_rows // JUDGED_EVERY
    teaching = Injected(held_out, prep, num_rows - num_judged, seed, False)
    try:
        arrays = spec.fit_kinds(config, module, fitted, teaching)
    except ValueError as error:
        logger.warning("artefact_probability will be NaN: %s", error)
        return {}, {}
    predict = spec.predictor(config, module, {**fitted, **arrays}, _device(module))
    return arrays, confusion(predict, Injected(held_out, prep, num_judged, seed, True))


def confusion(predict: "Predict", anomalies: Iterable[Arrays]) -> Confusion:
    """Count how many of each kind are taken for an artefact, and for physical."""
    table: Confusion = {}
    for batch in anomalies:
        is_artefact = predict(batch)["artefact_probability"] > 0.5
        for kind in np.unique(batch["anomaly"].astype(str)):
            chosen = is_artefact[batch["anomaly"] == kind]
            row = table.setdefault(str(kind), {"artefact": 0, "physical": 0})
            row["artefact"] += int(chosen.sum())
            row["physical"] += int((~chosen).sum())
    return table


def _device(module: "nn.Module") -> torch.device:
    return next(module.parameters()).device
