"""Charts of generated images beside real ones: a grid of both, properties, power spectra."""

# N, M = real and generated images, S = pixels a side, R = radial bins

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from catalogs.figures import BLUE, VERMILION, new_figure, style, to_png, to_svg

COLUMNS, ROWS = 12, 3
BINS = 16
SHOWN = {
    "rhalf_circ": "half-light radius [pixel]",
    "sersic_n": "Sersic index",
    "concentration": "concentration",
    "asymmetry": "asymmetry",
    "smoothness": "smoothness",
    "gini": "Gini",
    "ellipticity_centroid": "ellipticity",
    "orientation_centroid": "orientation [rad]",
}
"""Properties that are drawn, and what they are called."""


def grid_picture(real: np.ndarray, generated: np.ndarray, softening: float) -> str:
    """Draw the first images of both sets, [N, S, S] and [M, S, S], under asinh of brightness / softening; a data URI."""
    with style():
        figure = new_figure(10.5, 2 * ROWS * 10.5 / COLUMNS + 0.5)
        high = float(np.arcsinh(np.percentile(real, 99.9) / softening))
        parts = np.ravel(np.asarray(figure.subfigures(2, 1)))
        for part, images, title in zip(parts, (real, generated), ("real", "generated"), strict=True):
            part.suptitle(title, x=0.01, ha="left", fontsize=10)
            panels = part.subplots(ROWS, COLUMNS, squeeze=False).ravel()
            for axes in panels:
                axes.set_axis_off()
            for axes, image in zip(panels, images, strict=False):
                shown = np.arcsinh(image / softening)
                axes.imshow(shown, origin="lower", cmap="gray", vmin=0, vmax=high, interpolation="nearest")
        return to_png(figure)


def property_chart(real: Mapping[str, np.ndarray], generated: Mapping[str, np.ndarray]) -> str:
    """Draw the distribution of each property of both sets, as shares; values that are not defined are left out."""
    with style():
        figure = new_figure(10.5, 4.6)
        panels = figure.subplots(2, 4).ravel()
        for axes, (name, label) in zip(panels, SHOWN.items(), strict=True):
            _histograms(axes, real[name], generated[name])
            axes.set_xlabel(label)
        panels[0].set_ylabel("share of images")
        panels[0].margins(y=0.35)
        panels[0].legend(loc="upper right", ncols=2)
        return to_svg(figure)


def _histograms(axes: Axes, real: np.ndarray, generated: np.ndarray) -> None:
    pairs = [values[np.isfinite(values)] for values in (real, generated)]
    every = np.concatenate(pairs)
    low, high = np.percentile(every, [1, 99]) if len(every) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    for values, colour, label in zip(pairs, (BLUE, VERMILION), ("real", "generated"), strict=True):
        counts, _ = np.histogram(values, edges)
        axes.stairs(counts / max(len(values), 1), edges, color=colour, lw=1.2, label=label)


def power_chart(real: np.ndarray, generated: np.ndarray) -> str:
    """Draw radially averaged amplitudes, [N, R] and [M, R]: medians, and where 68 % of the images that have a bin lie."""
    with style():
        figure = new_figure(6.5, 3.4)
        axes = figure.subplots()
        for spectra, colour, label in ((real, BLUE, "real"), (generated, VERMILION, "generated")):
            low, middle, high = np.nanpercentile(spectra, [16, 50, 84], axis=0)
            wave = np.arange(len(middle))
            axes.fill_between(wave, low, high, color=colour, alpha=0.2, lw=0)
            axes.plot(wave, middle, color=colour, lw=1.4, label=label)
        axes.set_yscale("log")
        axes.set_xlabel("frequency [cycles an image]")
        axes.set_ylabel("amplitude")
        axes.legend()
        return to_svg(figure)
