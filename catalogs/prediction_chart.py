"""Chart of the report that shows whether predicted fluxes can be trusted: their errors, and their bias with S/N."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from catalogs.charts import draw_histogram
from catalogs.figures import BLUE, VERMILION, new_figure, style, to_svg
from catalogs.statistics import Histogram, Trend

MIN_ROWS = 5
"""A bin of the trend with fewer rows is not drawn."""


def prediction_chart(significance: Mapping[str, Histogram], magnitude: Mapping[str, Trend]) -> str:
    """Draw two panels a band, as SVG.

    Parameters
    ----------
    significance
        Band to counts of (measured - predicted) flux in standard deviations; a unit normal if errors are right.
    magnitude
        Band to quantiles of measured minus predicted magnitude in bins of S/N; about 0 without bias.
    """
    with style():
        figure = new_figure(3.5 * len(significance), 4.8)
        upper, lower = figure.subplots(2, len(significance), squeeze=False)
        for band, above, below in zip(significance, upper, lower, strict=True):
            _draw_significance(above, significance[band])
            _draw_trend(below, magnitude[band])
            above.set_title(band.upper())
        upper[0].set_ylabel("rows per bin")
        lower[0].set_ylabel("measured − predicted [mag]")
        handles, labels = upper[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
        return to_svg(figure)


def _draw_significance(axes: Axes, histogram: Histogram) -> None:
    draw_histogram(axes, histogram, "catalogue")
    # The outermost bins also hold everything beyond.
    bounds = np.r_[-np.inf, histogram.edges[1:-1], np.inf]
    expected = histogram.counts.sum() * np.diff(stats.norm.cdf(bounds))
    axes.stairs(expected, histogram.edges, color=VERMILION, lw=1.2, ls="--", label="unit normal")
    axes.set_xlabel("flux residual [standard deviations]")


def _draw_trend(axes: Axes, trend: Trend) -> None:
    axes.set_xscale("log")
    axes.set_xlim(trend.edges[0], trend.edges[-1])
    drawn = trend.counts >= MIN_ROWS
    middle = np.sqrt(trend.edges[:-1] * trend.edges[1:])[drawn]
    bars = np.array([trend.median - trend.low, trend.high - trend.median])[:, drawn]
    if drawn.any():
        axes.errorbar(middle, trend.median[drawn], bars, fmt="o", ms=4, color=BLUE, capsize=2)
    axes.axhline(0.0, color=VERMILION, lw=1.0, ls="--")
    axes.set_xlabel("S/N of the measured flux")
