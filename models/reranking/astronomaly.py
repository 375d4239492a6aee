"""Astronomaly's active learning: the raw score, damped where people who looked nearby were bored.

References
----------
Lochner & Bassett (2021), Astronomy and Computing 36, 100481, as in `astronomaly.anomaly_detection.human_loop_learning`:
a regression of labels, trusted near labelled objects; far from them the raw score stands.
"""

# B rows, K labelled rows, D features

from typing import Any

import numpy as np

from models.reranking.config import AstronomalyConfig
from models.reranking.distance import nearest_distance
from models.reranking.forest import CompiledForest
from models.reranking.labelled import MAX_LABEL, MIN_LABEL, Labelled, Totals, check_finite

TRUST_OFFSET, TRUST_SCALE = 0.1, 0.85
"""Labels 0 to 5 become trust of 0.1 to 0.95: nothing is damped to 0, and arctanh stays finite."""
COMPILED_BYTES = 200_000
"""Bytes of table that a row may read before scikit-learn's own walk down the trees is faster (measured)."""


class Astronomaly:
    """A regression of labels, and how far each row is from a labelled one.

    Parameters
    ----------
    labelled
        What people said.
    config
        Settings.
    """

    def __init__(self, labelled: Labelled, config: AstronomalyConfig) -> None:
        from sklearn.ensemble import RandomForestRegressor  # a second that other jobs need not pay

        self._labelled, self._alpha = labelled.features, config.alpha
        forest = RandomForestRegressor(config.num_trees, random_state=config.seed, n_jobs=1)
        self._predict = _fastest(forest.fit(labelled.features, labelled.labels))

    def totals(self, features: np.ndarray, score: np.ndarray) -> Totals:
        """Sum over a part of the rows: features [B, D], raw score [B], both finite or `ValueError`."""
        check_finite(features)
        check_finite(score[:, None])
        distance = nearest_distance(features, self._labelled)
        low, high = (score.min(), score.max()) if len(score) else (np.inf, -np.inf)
        return Totals(len(score), float(distance.sum(dtype=np.float64)), float(low), float(high))

    def apply(self, features: np.ndarray, score: np.ndarray, totals: Totals) -> dict[str, np.ndarray]:
        """Score a part of the rows.

        Parameters
        ----------
        features, score
            [B, D] and [B], finite.
        totals
            Of all rows.

        Returns
        -------
        dict
            `rerank_score` 0 to 5, `predicted_label` 0 to 5, `labelled_distance`; float32 [B].
        """
        label = np.clip(self._predict(features), MIN_LABEL, MAX_LABEL)  # a mean of labels, but for rounding
        distance = nearest_distance(features, self._labelled)
        relative = distance / max(totals.distance_sum / max(totals.num_rows, 1), np.finfo(np.float64).tiny)
        spread = max(totals.score_max - totals.score_min, np.finfo(np.float64).tiny)
        rescaled = MAX_LABEL * (score.astype(np.float64) - totals.score_min) / spread
        final = damped(rescaled, label, relative, self._alpha)
        columns = {"rerank_score": final, "predicted_label": label, "labelled_distance": distance}
        return {name: values.astype(np.float32) for name, values in columns.items()}


def damped(score: np.ndarray, label: np.ndarray, distance: np.ndarray, alpha: float) -> np.ndarray:
    """Astronomaly's final score: S tanh(exp(alpha d) - 1 + arctanh(trust)).

    Parameters
    ----------
    score
        Raw score rescaled to 0 to 5, [B].
    label
        Predicted label, 0 to 5, [B].
    distance
        To the nearest labelled row, in units of its mean over all rows, [B].
    alpha
        Factor of the distance.
    """
    trust = TRUST_OFFSET + TRUST_SCALE * label / MAX_LABEL
    with np.errstate(over="ignore"):  # far away: tanh of infinity is 1
        return score * np.tanh(np.exp(alpha * distance) - 1.0 + np.arctanh(trust))


def _fastest(forest: Any) -> Any:
    """Return what predicts a batch: tables where they are small, else the forest itself."""
    compiled = CompiledForest(forest)
    return compiled.predict if compiled.bytes_per_row <= COMPILED_BYTES else forest.predict
