"""The tables of the ablation, from cached results: means over seeds with 95 % intervals.

Of a checkpoint that is trained once the interval is over test spectra (`evaluate.spread`), and does not know how much
another training would change.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation.metrics import FALSE_POSITIVE_RATES, interval, snr_bins

METRICS = ("AUROC", "average precision", *FALSE_POSITIVE_RATES)
HEADLINE = "recall at 1 %"
MARK = "<!-- below this line: what the command printed -->"
GOAL = 1.3
SPREAD = "spread"
"""Key of the standard deviations over test spectra in a result."""
NORMAL_95 = 1.96
UNKNOWN = "-"
"""A cell of which there are too few objects."""
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Method to seed to what `evaluate.results` gave."""


def values_of(
    by_seed: Mapping[int, Mapping[str, Any]], score: str, metric: str, kind: str = "mean", snr: str = "all"
) -> list[float]:
    """One number a seed; NaN where there were too few objects."""
    found = (by_seed[seed][score][metric][kind][snr] for seed in sorted(by_seed))
    return [float("nan") if value is None else value for value in found]


def estimate(
    by_seed: Mapping[int, Mapping[str, Any]], score: str, metric: str, kind: str = "mean", snr: str = "all"
) -> tuple[float, float]:
    """Mean and half width of the 95 % interval over seeds; of one seed over test spectra, NaN if that is not known."""
    mean, half = interval(values_of(by_seed, score, metric, kind, snr))
    if len(by_seed) == 1:
        (only,) = by_seed.values()
        deviation = only[SPREAD][score][metric][kind][snr] if SPREAD in only else None
        half = float("nan") if deviation is None else NORMAL_95 * deviation
    return mean, half


def cell(values: Sequence[float], digits: int = 3) -> str:
    """Mean and half width of the interval over seeds; the mean alone where there is one."""
    return shown(interval(values), digits)


def shown(found: tuple[float, float], digits: int = 3) -> str:
    """Mean and half width; the mean alone where there is no interval."""
    mean, half = found
    if np.isnan(mean):
        return UNKNOWN
    return f"{mean:.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table for a page."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_below(page: Path, text: str) -> None:
    """Replace what stands below `MARK` on a page.

    Raises
    ------
    ValueError
        If the page has no such line: it is then not one of these pages.
    """
    above, mark, _ = page.read_text().partition(MARK)
    if not mark:
        raise ValueError(f"{page} has no line {MARK}: give a page that tables belong on")
    page.write_text(f"{above}{MARK}\n\n{text}\n")


def overview(results: Results, titles: Mapping[str, str], score: str) -> str:
    """All methods by one score, averaged over kinds, and the chi2 of normal spectra."""
    rows = []
    for name, by_seed in results.items():
        fit = [by_seed[seed]["chi2 of normals"]["median"] for seed in sorted(by_seed)]
        numbers = [shown(estimate(by_seed, score, metric)) for metric in METRICS]
        rows.append([titles[name], *numbers, cell(fit), str(len(by_seed))])
    return markdown(["method", *METRICS, "chi2 per pixel", "seeds"], rows)


def by_kind(results: Results, score: str, metric: str) -> str:
    """Kinds down, methods across."""
    kinds = next(iter(next(iter(results.values())).values()))[score][metric]
    rows = [[kind, *(shown(estimate(s, score, metric, kind), 2) for s in results.values())] for kind in kinds]
    return markdown(["", *results], rows)


def one_kind(results: Results, kind: str, metric: str) -> str:
    """Methods down, scores across, for one kind of anomaly."""
    scores = ("chi2", "distance", "on_manifold_score", "off_manifold_score", "anomaly_score")
    rows = [
        [n, *(shown(estimate(s, score, metric, kind), 2) for score in scores)] for n, s in results.items()
    ]
    return markdown(["", *scores], rows)


def by_snr(results: Results, score: str, metric: str) -> str:
    """Bins of S/N across, methods down, averaged over kinds."""
    rows = [
        [name, *(shown(estimate(by_seed, score, metric, snr=snr), 2) for snr in snr_bins())]
        for name, by_seed in results.items()
    ]
    return markdown(["", *snr_bins()], rows)


def by_kind_and_snr(results: Results, score: str, metric: str) -> str:
    """Kinds and bins down, methods across; bins that no method has a value in are left out."""
    kinds = next(iter(next(iter(results.values())).values()))[score][metric]
    rows = []
    for kind, snr in ((kind, snr) for kind in kinds for snr in snr_bins()):
        cells = [shown(estimate(by_seed, score, metric, kind, snr), 2) for by_seed in results.values()]
        if set(cells) != {UNKNOWN}:
            rows.append([kind, snr.removeprefix("S/N "), *cells])
    return markdown(["kind", "S/N", *results], rows)


def best_simple(
    results: Results, simple: Sequence[str], scores: Sequence[str]
) -> tuple[str, str, dict[int, float]]:
    """Which simple method with which plain score finds most at 1 %, and its recall by seed."""
    found = [
        (float(np.mean(list(recall.values()))), name, score, recall)
        for name in simple
        for score in scores
        for recall in [_recall(results[name], score)]
    ]
    _, name, score, recall = max(found, key=lambda row: row[:3])
    return name, score, recall


def _recall(by_seed: Mapping[int, Mapping[str, Any]], score: str) -> dict[int, float]:
    """Recall at 1 % of each seed."""
    return dict(zip(sorted(by_seed), values_of(by_seed, score, HEADLINE), strict=True))


def ratios(results: Results, baseline: Mapping[int, float], score: str) -> str:
    """Recall at 1 % of each method's rank over the best simple baseline's; the goal is `GOAL`.

    Seeds that both have are compared one by one, as both saw the same spectra then. With fewer than two of them it is
    the ratio of the means: of a checkpoint that is trained once with the relative widths of both added in quadrature,
    else without interval.
    """
    rows = []
    for name, by_seed in results.items():
        mean, half = _ratio(by_seed, baseline, score)
        low = mean if np.isnan(half) else mean - half
        yes = "yes, without interval" if np.isnan(half) else "yes"
        rows.append(
            [name, shown((mean, half), 2), yes if low >= GOAL else "not shown" if mean >= GOAL else "no"]
        )
    return markdown(["", "times the baseline", f"at least {GOAL:g}"], rows)


def _ratio(
    by_seed: Mapping[int, Mapping[str, Any]], baseline: Mapping[int, float], score: str
) -> tuple[float, float]:
    """Mean and half width of the interval of the ratio of recalls."""
    ours, both = _recall(by_seed, score), sorted(by_seed.keys() & baseline.keys())
    if len(both) > 1:
        return interval([ours[seed] / baseline[seed] for seed in both])
    (mean, half), (other, other_half) = estimate(by_seed, score, HEADLINE), interval(list(baseline.values()))
    relative = float(np.hypot(half / mean, other_half / other)) if len(ours) == 1 else float("nan")
    return mean / other, mean / other * relative
