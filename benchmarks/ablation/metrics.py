"""How well scores find injected anomalies: by kind and signal-to-noise, and over seeds."""

# N objects, S seeds

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import t as student
from sklearn.metrics import average_precision_score, roc_auc_score

from engine.synthetic.anomalies import KINDS

PREVALENCE = 0.01
"""Part of objects that is anomalous, for average precision: that of a test set says nothing about a survey."""
FALSE_POSITIVE_RATES = {"recall at 0.1 %": 0.001, "recall at 1 %": 0.01}
SNR_EDGES = (0.0, 3.0, 6.0, 10.0, np.inf)
"""Bins of the median signal-to-noise of a 0.8 Angstrom pixel."""

Values = dict[str, dict[str, dict[str, float]]]
"""Metric to kind ("mean": over kinds) to bin of S/N ("all") to value; NaN where there are too few objects."""

MIN_OBJECTS = 10


def average_precision(is_anomaly: np.ndarray, score: np.ndarray, prevalence: float = PREVALENCE) -> float:
    """Average precision as it would be if a part `prevalence` of the objects were anomalous.

    Parameters
    ----------
    is_anomaly, score
        [N] truth, and score with high meaning anomalous.
    prevalence
        In (0, 1); also what a score that knows nothing reaches.
    """
    num = np.array([np.sum(~is_anomaly), np.sum(is_anomaly)], float)
    weight = np.array([1 - prevalence, prevalence]) / num
    return float(average_precision_score(is_anomaly, score, sample_weight=weight[is_anomaly.astype(int)]))


def recall_at(is_anomaly: np.ndarray, score: np.ndarray, false_positive_rate: float) -> float:
    """Part of the anomalies above the score that a part `false_positive_rate` of normal objects exceeds.

    At most that part: of 150 normal objects none may exceed the threshold for a rate of 0.1 %.
    """
    normal = np.sort(score[~is_anomaly])
    allowed = int(false_positive_rate * len(normal))
    return float(np.mean(score[is_anomaly] > normal[len(normal) - 1 - allowed]))


COMPARED = {"AUROC": roc_auc_score, "average precision": average_precision}
"""Metrics that compare anomalies with normal objects like them."""


def snr_bins() -> dict[str, tuple[float, float]]:
    """Name of each bin, and its edges."""
    edges = list(itertools.pairwise(SNR_EDGES))
    names = [f"S/N {low:g} to {high:g}" for low, high in edges]
    names[0], names[-1] = f"S/N below {SNR_EDGES[1]:g}", f"S/N above {SNR_EDGES[-2]:g}"
    return dict(zip(names, edges, strict=True))


def measure(score: np.ndarray, truth: Mapping[str, np.ndarray]) -> Values:
    """All metrics of one score.

    AUROC and average precision compare anomalies with normal objects of the same bin of S/N and of classes that can
    have the anomaly (only bright objects are injected into: a score that grows with brightness must not profit);
    `all` is their mean weighted with the number of anomalies. Recall in a bin counts false positives among the bin's
    normal objects of any class; `all` among all normal ones, as a reader of a ranked catalogue does.

    Parameters
    ----------
    score
        [N] high = anomalous; NaN counts as least anomalous.
    truth
        `anomaly` ("" for none), `target`, `snr`, [N] each.
    """
    score = np.where(np.isnan(score), -np.inf, score)
    score = np.clip(score, np.finfo(np.float32).min, np.finfo(np.float32).max)
    kinds = sorted(set(truth["anomaly"]) - {""})
    values: Values = {name: {} for name in (*COMPARED, *FALSE_POSITIVE_RATES)}
    for kind in kinds:
        for metric, by_bin in _of_kind(score, truth, kind).items():
            values[metric][kind] = by_bin
    for by_kind in values.values():
        bins = next(iter(by_kind.values()))
        by_kind["mean"] = {name: _mean([by_kind[kind][name] for kind in kinds]) for name in bins}
    return values


def deviations(samples: Sequence[Values]) -> Values:
    """Compute the standard deviation of each value over samples; NaN where half of them or fewer have one."""

    def deviation(metric: str, kind: str, name: str) -> float:
        found = np.array([one[metric][kind][name] for one in samples if kind in one[metric]])
        known = found[np.isfinite(found)]
        return float(known.std(ddof=1)) if len(known) > max(len(samples) / 2, 1) else float("nan")

    return {
        metric: {
            kind: {name: deviation(metric, kind, name) for name in bins} for kind, bins in by_kind.items()
        }
        for metric, by_kind in samples[0].items()
    }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _of_kind(score: np.ndarray, truth: Mapping[str, np.ndarray], kind: str) -> dict[str, dict[str, float]]:
    """Metrics of one kind by bin."""
    is_kind, is_normal = truth["anomaly"] == kind, truth["anomaly"] == ""
    able = is_normal & np.isin(truth["target"], KINDS[kind].targets)
    found: dict[str, dict[str, float]] = {name: {} for name in (*COMPARED, *FALSE_POSITIVE_RATES)}
    weights = {}
    for name, (low, high) in snr_bins().items():
        here = (truth["snr"] >= low) & (truth["snr"] < high)
        weights[name] = int((is_kind & here).sum())
        enough = min(weights[name], int((able & here).sum())) >= MIN_OBJECTS
        matched, any_class = (here & (is_kind | other) for other in (able, is_normal))
        for metric, function in COMPARED.items():
            found[metric][name] = float(function(is_kind[matched], score[matched])) if enough else np.nan
        for metric, rate in FALSE_POSITIVE_RATES.items():
            found[metric][name] = recall_at(is_kind[any_class], score[any_class], rate) if enough else np.nan
    whole = is_kind | is_normal
    for metric in COMPARED:
        found[metric]["all"] = _weighted(found[metric], weights)
    for metric, rate in FALSE_POSITIVE_RATES.items():
        found[metric]["all"] = recall_at(is_kind[whole], score[whole], rate)
    return found


def _weighted(values: Mapping[str, float], weights: Mapping[str, int]) -> float:
    """Mean of the values that are known."""
    known = {name: weights[name] for name, value in values.items() if np.isfinite(value)}
    total = sum(known.values())
    return sum(weight * values[name] for name, weight in known.items()) / total if total else float("nan")


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean, and half the width of Student's confidence interval of it; NaN width for fewer than two values."""
    sample = np.asarray(values, float)
    if len(sample) < 2:
        return float(sample.mean()), float("nan")
    error = sample.std(ddof=1) / np.sqrt(len(sample))
    return float(sample.mean()), float(student.ppf(0.5 + level / 2, len(sample) - 1) * error)
