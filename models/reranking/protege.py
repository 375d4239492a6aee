"""Protege: a Gaussian process of the labels alone, and the improvement that a further label can be expected to bring.

References
----------
Lochner & Rudnick (2025), AJ 169, 121, as in `astronomaly.anomaly_detection.protege`: Matern and white kernel, expected improvement as acquisition.
Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, Algorithm 2.1 and Eq. 4.17.
"""

# B rows, K labelled rows, D features

import logging
import math
import warnings
from typing import Any, cast

import numpy as np

from models.reranking.config import ProtegeConfig
from models.reranking.labelled import Labelled, Totals, check_finite

_logger = logging.getLogger(__name__)


class Protege:
    """A Gaussian process with a Matern 3/2 and a white kernel, of mean 0, fitted to labels.

    Parameters
    ----------
    labelled
        What people said.
    config
        Settings.
    """

    def __init__(self, labelled: Labelled, config: ProtegeConfig) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import Matern, WhiteKernel

        process = GaussianProcessRegressor(Matern() + WhiteKernel(), random_state=config.seed)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter(
                "always"
            )  # a parameter at its bound is a fact about few labels, not a fault
            process.fit(labelled.features, labelled.labels)
        for warning in found:
            _logger.info("Gaussian process: %s", warning.message)
        parameters = cast(Any, process.kernel_).get_params()
        self._length, self._noise = (
            float(parameters["k1__length_scale"]),
            float(parameters["k2__noise_level"]),
        )
        self._features = np.asarray(labelled.features, np.float64)
        self._weights = np.asarray(process.alpha_, np.float64)
        self._whiten = np.linalg.inv(process.L_)
        self._best, self._tradeoff = float(labelled.labels.max()), config.tradeoff

    def totals(self, features: np.ndarray, score: np.ndarray) -> Totals:
        """Only check the rows: a score depends on no other row."""
        check_finite(features)
        return Totals(len(score))

    def apply(self, features: np.ndarray, score: np.ndarray, totals: Totals) -> dict[str, np.ndarray]:  # noqa: ARG002
        """Score a part of the rows.

        Parameters
        ----------
        features
            [B, D], finite.
        score, totals
            Not used: Protege needs no anomaly score.

        Returns
        -------
        dict
            `rerank_score`, the expected improvement; `predicted_label` and its standard deviation
            `predicted_label_sigma`; float32 [B].
        """
        covariance = self._covariance(np.asarray(features, np.float64))
        mean = covariance @ self._weights
        known = np.square(covariance @ self._whiten.T).sum(1)
        sigma = np.sqrt(np.maximum(1.0 + self._noise - known, np.finfo(np.float64).tiny))
        improvement = expected_improvement(mean, sigma, self._best + self._tradeoff)
        columns = {"rerank_score": improvement, "predicted_label": mean, "predicted_label_sigma": sigma}
        return {name: values.astype(np.float32) for name, values in columns.items()}

    def _covariance(self, features: np.ndarray) -> np.ndarray:
        """Matern 3/2 between rows and labelled rows, [B, K]."""
        squared = (features**2).sum(1)[:, None] + (self._features**2).sum(1) - 2 * features @ self._features.T
        scaled = math.sqrt(3.0) / self._length * np.sqrt(np.maximum(squared, 0.0, out=squared), out=squared)
        return (1.0 + scaled) * np.exp(-scaled)


def expected_improvement(mean: np.ndarray, sigma: np.ndarray, best: float) -> np.ndarray:
    """Compute the expectation of max(0, label - best) for a normal label.

    Parameters
    ----------
    mean, sigma
        Of the label, [B]; sigma above 0.
    best
        What is to be beaten, with the trade-off.

    References
    ----------
    Jones, Schonlau & Welch (1998), J. Global Optimization 13, 455, Eq. 15.
    """
    from scipy.special import ndtr

    gain = mean - best
    z = gain / sigma
    return gain * ndtr(z) + sigma * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
