"""Charts of the report of a catalogue of two classes: probabilities, how honest they are, and redshift."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from catalogs.binomial import binomial_interval
from catalogs.figures import BLUE, GREY, PURPLE, VERMILION, new_figure, style, to_svg
from catalogs.spec import Classes
from catalogs.statistics import Fractions, Histogram

NUM_BINS = 10
"""Bins of probability in which labels are counted."""


class Reliability(NamedTuple):
    """How honest probabilities were on objects that nobody trained on.

    Parameters
    ----------
    table
        [M, 3] rows, mean probability and fraction of class 1: see `models.scoring.probabilities.reliability`.
    is_cross_fitted
        Whether each object's temperature was found on others; else on the same objects, which flatters.
    """

    table: np.ndarray
    is_cross_fitted: bool


def class_chart(
    classes: Classes,
    probabilities: Mapping[str, Histogram],
    reliability: Reliability | None,
    labelled: tuple[np.ndarray, np.ndarray],
    fractions: Fractions,
) -> str:
    """Draw three panels, as SVG.

    Parameters
    ----------
    classes
        Names of the classes.
    probabilities
        Distribution of the probability, of all rows and of those with a given class.
    reliability
        Of the checkpoint; None: unknown.
    labelled
        Probability and class (True: 1) of rows that have a given class.
    fractions
        Trusted rows of class 1 in bins of redshift, and their mean probability.
    """
    with style():
        figure = new_figure(10.5, 3.4)
        left, middle, right = figure.subplots(1, 3)
        _draw_probabilities(left, probabilities, classes)
        _draw_reliability(middle, reliability, *labelled)
        _draw_fractions(right, fractions, classes)
        return to_svg(figure)


def _draw_probabilities(axes: Axes, histograms: Mapping[str, Histogram], classes: Classes) -> None:
    for (name, histogram), colour in zip(histograms.items(), (GREY, VERMILION, BLUE), strict=False):
        if histogram.counts.any():
            axes.stairs(histogram.counts, histogram.edges, color=colour, lw=1.3, label=name)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(classes.probability)
    axes.set_ylabel("rows per bin")
    _draw_legend(axes)


def _draw_reliability(
    axes: Axes, found: Reliability | None, probability: np.ndarray, outcome: np.ndarray
) -> None:
    axes.plot([0, 1], [0, 1], color="#555555", lw=0.8, ls="--", zorder=0)
    if found is not None:
        count, mean, rate = found.table[found.table[:, 0] > 0].T
        error = count @ np.abs(rate - mean) / max(count.sum(), 1)
        origin = "held out" if found.is_cross_fitted else "calibrated on, not trained on"
        axes.plot(mean, rate, "o-", ms=3.5, lw=1.0, color=GREY, label=f"{origin}, ECE {error:.2f}")
    if len(probability):
        cell = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
        totals, hits, sums = (
            np.bincount(cell, weight, NUM_BINS) for weight in (None, outcome.astype(float), probability)
        )
        some = totals > 0
        hits, totals = hits[some].astype(int), totals[some].astype(int)
        low, high = binomial_interval(hits, totals)
        rate = hits / totals
        brier = np.mean((probability - outcome) ** 2)
        axes.errorbar(sums[some] / totals, rate, [rate - low, high - rate], fmt="s", ms=4, color=PURPLE,
                      capsize=2, label=f"given classes, Brier {brier:.2f}")  # fmt: skip
    axes.set_xlabel("probability")
    axes.set_ylabel("fraction that is")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    _draw_legend(axes, loc="lower left", bbox_to_anchor=(0, 1))  # above: points may lie anywhere inside


def _draw_legend(axes: Axes, **place: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**place)


def _draw_fractions(axes: Axes, fractions: Fractions, classes: Classes) -> None:
    some = fractions.totals > 0
    middle = ((fractions.edges[:-1] + fractions.edges[1:]) / 2)[some]
    rate = fractions.hits[some] / fractions.totals[some]
    bars = np.array([rate - fractions.low[some], fractions.high[some] - rate])
    if some.any():
        axes.errorbar(
            middle, rate, bars, np.diff(fractions.edges)[some] / 2, fmt="o", ms=4, color=BLUE, capsize=2,
            label=f"predicted {classes.names[1]}",
        )  # fmt: skip
        axes.plot(middle, fractions.probability[some], "D", ms=4, color=VERMILION, label="mean probability")
    for x, *counts in zip(middle, fractions.totals[some], fractions.everything[some], strict=True):
        axes.text(x, 1.05, "/".join(map(str, counts)), ha="center", fontsize=6, color=GREY)
    _draw_legend(axes, loc="lower left", bbox_to_anchor=(0, 1))
    axes.set_ylim(0, 1.12)
    axes.set_xlabel(f"redshift ({classes.redshift})")
    axes.set_ylabel(f"fraction of {classes.names[1]}")
