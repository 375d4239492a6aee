"""Charts of the report that are about the whole catalogue."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import NullLocator
from scipy import stats

from catalogs.figures import (
    BLUE,
    CLASS_COLOURS,
    GREY,
    ORANGE,
    VERMILION,
    new_figure,
    style,
    to_png,
    to_svg,
)
from catalogs.outliers import SIGNIFICANT
from catalogs.statistics import Histogram, Rate

MAX_BARS = 40
"""With more groups than this, rates are drawn against the size of the group instead of one by one."""

MAX_TRAINING_PANELS = 6


def score_chart(histograms: Mapping[str, Histogram], num_parts: Mapping[str, int]) -> str:
    """Draw distributions of scores that are -log10 p, with what calibration promises.

    Parameters
    ----------
    histograms
        Name to counts; the last bin also holds everything beyond.
    num_parts
        Of how many calibrated scores each is the highest. Among ordinary objects P(score > s) then lies
        between 10^-s (parts that always agree) and 1 - (1 - 10^-s)^parts (independent ones).
    """
    with style():
        figure = new_figure(3.6 * len(histograms), 2.7)
        panels = figure.subplots(1, len(histograms), squeeze=False)[0]
        for axes, (name, histogram) in zip(panels, histograms.items(), strict=True):
            draw_histogram(axes, histogram, "catalogue")
            middle = (histogram.edges[:-1] + histogram.edges[1:]) / 2
            bounds = [_expected_counts(histogram, parts) for parts in (1, num_parts[name])]
            axes.fill_between(middle, np.min(bounds, 0), np.max(bounds, 0), color=VERMILION, alpha=0.4, lw=1.5,
                              label="ordinary objects")  # fmt: skip
            axes.set_ylim(0.5, 3.0 * max(histogram.counts.max(), 1))
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())  # a third of the time to draw
            axes.set_xlabel(name)
        panels[0].set_ylabel("rows per bin")
        panels[-1].legend(loc="upper right")
        return to_svg(figure)


def _expected_counts(histogram: Histogram, num_parts: int) -> np.ndarray:
    survival = 1 - (1 - 10.0 ** -np.append(histogram.edges[:-1], np.inf)) ** num_parts
    return histogram.counts.sum() * -np.diff(survival)


def percentile_chart(histograms: Mapping[str, Histogram]) -> str:
    """Draw distributions of percentiles; for ordinary objects they are flat."""
    with style():
        num_columns = 4 if len(histograms) % 4 == 0 else 3
        num_rows = -(-len(histograms) // num_columns)
        figure = new_figure(10.5, 2.0 * num_rows)
        panels = figure.subplots(num_rows, num_columns, squeeze=False)
        for axes in panels.ravel()[len(histograms) :]:
            axes.set_visible(False)
        for axes, (name, histogram) in zip(panels.ravel(), histograms.items(), strict=False):
            draw_histogram(axes, histogram, "catalogue")
            axes.axhline(histogram.counts.mean(), color=VERMILION, lw=1.2, ls="--", label="ordinary objects")
            axes.set_ylim(0, 1.1 * max(histogram.counts.max(), 1))
            axes.set_xlabel(name)
        for axes in panels[:, 0]:
            axes.set_ylabel("rows per bin")
        panels[0, 0].legend(loc="lower left")
        return to_svg(figure)


def draw_histogram(axes: Axes, histogram: Histogram, label: str) -> None:
    """Draw counts as filled steps."""
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=BLUE, alpha=0.25)
    axes.stairs(histogram.counts, histogram.edges, color=BLUE, lw=1.0, label=label)


def latent_chart(
    points: np.ndarray, spectype: np.ndarray, score: np.ndarray, top: np.ndarray, labels: tuple[str, str]
) -> str:
    """Draw a map of latent space twice: by class and by score.

    Parameters
    ----------
    points
        [N, 2] coordinates of the sampled rows.
    spectype, score
        [N] class (empty if none) and score.
    top
        [M, 2] coordinates of the most anomalous rows, by rank; ringed and numbered.
    labels
        Names of the two axes.
    """
    with style():
        figure = new_figure(10.5, 4.3)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        size = float(np.clip(20_000 / max(len(points), 1), 1.5, 14))
        for name in sorted(set(spectype.tolist())):
            chosen = spectype == name
            left.scatter(*points[chosen].T, s=size, lw=0, alpha=0.55, color=CLASS_COLOURS.get(name, GREY),
                         label=f"{name or 'no class'} ({chosen.sum():,})")  # fmt: skip
        order = np.argsort(score, kind="stable")
        limit = float(np.quantile(score, 0.995)) if len(score) else 1.0
        dots = right.scatter(*points[order].T, c=score[order], s=size, lw=0, alpha=0.8, cmap="viridis",
                             vmin=0, vmax=max(limit, 1e-6))  # fmt: skip
        figure.colorbar(dots, ax=right, label="anomaly_score", extend="max", shrink=0.85)
        _ring(right, top)
        left.legend(loc="best", markerscale=max(1.0, 5 / size**0.5), handletextpad=0.2)
        left.set_ylabel(labels[1])
        for axes in (left, right):
            axes.set_xlabel(labels[0])
        _frame_on(left, np.concatenate([points, top]))
        return to_png(figure)


def _ring(axes: Axes, top: np.ndarray) -> None:
    halo = [Stroke(linewidth=2.5, foreground="white"), Normal()]
    axes.scatter(*top.T, s=52, facecolor="none", edgecolor=VERMILION, lw=1.3, path_effects=halo)
    for rank, (x, y) in enumerate(top, start=1):
        axes.annotate(str(rank), (x, y), (5, 4), textcoords="offset points", fontsize=8.5, color=VERMILION,
                      path_effects=halo)  # fmt: skip


def _frame_on(axes: Axes, points: np.ndarray) -> None:
    """Show nearly all points: a few far ones must not squeeze the rest into a corner."""
    if not len(points):
        return
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    margin = 0.25 * np.maximum(high - low, 1e-6)
    low = np.maximum(low - margin, points.min(0) - 0.1 * margin)
    high = np.minimum(high + margin, points.max(0) + 0.1 * margin)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])


def rate_chart(rates: Sequence[Rate], name: str) -> str:
    """Draw the outlier rate of every group of a kind, with exact intervals or limits."""
    overall = sum(rate.num_outliers for rate in rates) / sum(rate.num_rows for rate in rates)
    with style():
        figure = new_figure(5.2, 2.9)
        axes = figure.subplots()
        draw = _draw_bars if len(rates) <= MAX_BARS else _draw_funnel
        draw(axes, rates, name, overall)
        axes.axhline(100 * overall, color="#555555", lw=0.8, ls="--", zorder=0)
        axes.set_ylabel("outliers [%]")
        axes.set_ylim(bottom=0)
        return to_svg(figure)


def _draw_bars(axes: Axes, rates: Sequence[Rate], kind: str, overall: float) -> None:
    values, low, high = (
        100 * np.array([getattr(r, name) for r in rates]) for name in ("rate", "low", "high")
    )
    is_odd = np.array([rate.p_value < SIGNIFICANT for rate in rates])
    for chosen, colour in ((~is_odd, BLUE), (is_odd, VERMILION)):
        places = np.flatnonzero(chosen)
        bars = np.array([values - low, high - values])[:, chosen]
        axes.errorbar(places, values[chosen], bars, fmt="o", ms=4, color=colour, elinewidth=1.1, capsize=2)
    is_crowded = len(rates) > 12
    axes.set_xticks(
        range(len(rates)), [str(rate.group) for rate in rates],
        rotation=90 if is_crowded else 0, fontsize=7 if is_crowded else 8.5,
    )  # fmt: skip
    highest = max(values.max(), np.median(high), 300 * overall, 1.0)
    axes.set_ylim(top=min(104, 1.1 * highest))
    axes.set_xlabel(kind)


def _draw_funnel(axes: Axes, rates: Sequence[Rate], name: str, overall: float) -> None:
    sizes = np.array([rate.num_rows for rate in rates])
    values = np.array([100 * rate.rate for rate in rates])
    is_odd = np.array([rate.p_value < SIGNIFICANT for rate in rates])
    axes.scatter(sizes[~is_odd], values[~is_odd], s=9, color=BLUE, alpha=0.5, lw=0)
    axes.scatter(sizes[is_odd], values[is_odd], s=18, color=VERMILION, lw=0)
    grid = np.unique(np.geomspace(sizes.min(), max(sizes.max(), sizes.min() + 1), 200).astype(int))
    level = 1 - SIGNIFICANT / len(rates)
    limit = 100 * stats.binom.ppf(level, grid, overall) / grid
    axes.plot(grid, limit, color=ORANGE, lw=1.2, label=f"limit, p = {SIGNIFICANT} over all {len(rates)}")
    for rate in sorted(rates, key=lambda rate: rate.p_value)[:5]:
        if rate.p_value < SIGNIFICANT:
            axes.annotate(str(rate.group), (rate.num_rows, 100 * rate.rate), (4, 3),
                          textcoords="offset points", fontsize=7.5, color=VERMILION)  # fmt: skip
    axes.set_ylim(top=min(104, 1.15 * max(values.max(), np.median(limit), 300 * overall, 1.0)))
    axes.set_xscale("log" if sizes.max() > 10 * sizes.min() else "linear")
    axes.set_xlabel(f"rows per {name}")
    axes.legend(loc="upper right")


def training_chart(history: Sequence[Mapping[str, Any]]) -> str:
    """Draw every metric of a training history, `val_x` in the panel of `x`; empty where there is none."""
    step = next((name for name in ("epoch", "step") if all(name in row for row in history)), None)
    panels = _training_panels(history, step)
    if not panels:
        return ""
    with style():
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = new_figure(3.5 * columns, 2.4 * rows)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, (name, curves) in zip(grid, panels.items(), strict=False):
            for (label, points), colour in zip(curves.items(), (BLUE, VERMILION, GREY), strict=False):
                axes.plot(*zip(*points, strict=True), color=colour, lw=1.3, marker="o", ms=2.5, label=label)
            axes.set_title(name)
            axes.set_xlabel(step or "record")
            if len(curves) > 1:
                axes.legend(loc="best")
        return to_svg(figure)


def _training_panels(
    history: Sequence[Mapping[str, Any]], step: str | None
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for index, row in enumerate(history):
        for name, value in row.items():
            if name in ("epoch", "step") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            kind, metric = _kind_of_metric(name)
            curve = panels.setdefault(metric, {}).setdefault(kind, [])
            curve.append((float(row[step]) if step else float(index), float(value)))
    by_importance = sorted(panels, key=lambda metric: (metric != "loss", -len(panels[metric])))
    return {metric: panels[metric] for metric in by_importance[:MAX_TRAINING_PANELS]}


def _kind_of_metric(name: str) -> tuple[str, str]:
    for prefix, kind in (("val_", "validation"), ("validation_", "validation"), ("train_", "training")):
        if name.startswith(prefix):
            return kind, name.removeprefix(prefix)
    return "training", name
