"""Did the instrument make this anomaly, or the sky? A small network that was trained on injected anomalies.

It says which of the kinds that were injected the evidence looks like most, so it is only as good as the injections,
and means nothing for a normal object. A perceptron with one hidden layer, grown by scikit-learn and kept as arrays.
"""

# B objects, F features, H hidden units

import warnings
from collections.abc import Mapping

import numpy as np

from models.scoring.probabilities import sigmoid

NUM_HIDDEN = 32
WEIGHT_DECAY = 1.0
"""Of scikit-learn's perceptron; chosen on the validation seed among 0.01, 0.1, 1, 10."""

ARRAYS = ("kind_scale", "kind_hidden", "kind_out")


class KindGuess:
    """The network.

    Parameters
    ----------
    scale
        [2, F] mean and standard deviation of the features.
    hidden, out
        [F + 1, H] and [H + 1] weights, the last row the bias.
    """

    def __init__(self, scale: np.ndarray, hidden: np.ndarray, out: np.ndarray) -> None:
        self._scale, self._hidden, self._out = scale, hidden, out

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Probability [B] that an anomaly with these features [B, F] is an artefact; NaN where one is NaN."""
        centre, spread = self._scale
        hidden = np.maximum((features - centre) / spread @ self._hidden[:-1] + self._hidden[-1], 0)
        return sigmoid(hidden @ self._out[:-1] + self._out[-1])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint keeps."""
        parts = (self._scale, self._hidden, self._out)
        return {name: part.astype(np.float32) for name, part in zip(ARRAYS, parts, strict=True)}


def fit_kind_guess(features: np.ndarray, is_artefact: np.ndarray, seed: int) -> KindGuess:
    """Train on features [N, F] of injected anomalies, and whether they are artefacts [N]; NaN rows are left out.

    Raises
    ------
    ValueError
        If there are not at least 10 of each.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    finite = np.isfinite(features).all(1)
    features, is_artefact = features[finite].astype(np.float64), np.asarray(is_artefact, bool)[finite]
    if min(is_artefact.sum(), (~is_artefact).sum()) < 10:
        raise ValueError(
            f"{is_artefact.sum()} artefacts and {(~is_artefact).sum()} physical anomalies are too few, need 10 of each"
        )
    centre, spread = features.mean(0), np.maximum(features.std(0), 1e-3)
    network = MLPClassifier(
        (NUM_HIDDEN,),
        alpha=WEIGHT_DECAY,
        early_stopping=True,
        n_iter_no_change=5,
        max_iter=100,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # With few rows it may still get better when it is stopped: good enough for a guess.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit((features - centre) / spread, is_artefact)
    hidden, out = (np.vstack([w, b]) for w, b in zip(network.coefs_, network.intercepts_, strict=True))
    return KindGuess(np.stack([centre, spread]), hidden, out[:, 0])


def kind_guess_from_arrays(arrays: Mapping[str, np.ndarray], num_features: int) -> KindGuess | None:
    """Make it of what `arrays` gave; None if the checkpoint has no such classifier.

    Raises
    ------
    ValueError
        If it has part of one, or one of other features.
    """
    if not any(name in arrays for name in ARRAYS):
        return None
    scale, hidden, out = (arrays.get(name, np.empty(0)) for name in ARRAYS)
    wanted = ((2, num_features), (num_features + 1, hidden.shape[-1]), (hidden.shape[-1] + 1,))
    for name, array, shape in zip(ARRAYS, (scale, hidden, out), wanted, strict=True):
        if array.shape != shape:
            raise ValueError(f"{name}: got {array.shape}, expected {shape}; fit the scores anew")
    return KindGuess(scale, hidden, out)
