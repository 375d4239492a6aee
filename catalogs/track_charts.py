"""A track: its path over the map of latent space, and the spectra decoded along it."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from catalogs.figures import GREY, new_figure, style, to_png
from catalogs.latent_space import Track
from engine.spectra.lines import lines_within

SMOOTH_PIXELS = 7
"""Of a running mean; every third pixel of it is drawn, which loses nothing that it kept."""
NAME_SPACING = 0.035
"""Part of the width of a panel that names of lines must be apart."""


def track_chart(track: Track, points: np.ndarray, steps: np.ndarray) -> str:
    """Draw a track as a `data:` URI of a PNG; see `track_figure`."""
    with style():
        return to_png(track_figure(track, points, steps))


def track_figure(track: Track, points: np.ndarray, steps: np.ndarray) -> Figure:
    """Draw a track; within `catalogs.figures.style`.

    Parameters
    ----------
    track
        Path and decoded spectra.
    points
        [N, 2] coordinates of a sample of the catalogue on the map.
    steps
        [S, 2] coordinates of the track on it.
    """
    figure = new_figure(10.5, 3.1)
    left, middle, right = figure.subplots(1, 3, width_ratios=(0.8, 1.3, 1.1))
    shades = ScalarMappable(Normalize(track.value.min(), track.value.max()), "viridis")
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(track.value)))
    _draw_path(left, points, steps, colours)
    rest = track.wave / (1.0 + track.redshift)
    _draw_spectra(middle, rest, track.flux, colours)
    inside = (rest >= track.zoom[0]) & (rest <= track.zoom[1])
    if inside.sum() > 1:
        _draw_spectra(right, rest[inside], track.flux[:, inside], colours, smooth=1)
        _mark_lines(right, *track.zoom)
    middle.set_ylabel("decoded flux / median")
    unit = track.unit.replace("Angstrom", "Å")
    figure.colorbar(shades, ax=right, label=f"{track.title} [{unit}]")
    return figure


def _draw_path(axes: Axes, points: np.ndarray, steps: np.ndarray, colours: np.ndarray) -> None:
    axes.scatter(*points.T, s=2, lw=0, color=GREY, alpha=0.3)
    axes.plot(*steps.T, color="#333333", lw=0.8)
    axes.scatter(*steps.T, s=30, color=colours, edgecolor="white", lw=0.6, zorder=3)
    low, high = np.quantile(np.concatenate([points, np.repeat(steps, 20, axis=0)]), [0.005, 0.995], axis=0)
    margin = 0.1 * np.maximum(high - low, 1e-6)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_xlabel("principal component 1")
    axes.set_ylabel("principal component 2")


def _draw_spectra(
    axes: Axes, wave: np.ndarray, flux: np.ndarray, colours: np.ndarray, smooth: int = SMOOTH_PIXELS
) -> None:
    for line, colour in zip(flux, colours, strict=True):
        shown = np.convolve(line, np.ones(smooth) / smooth, "valid") if smooth > 1 else line
        trim = (len(line) - len(shown)) // 2
        every = slice(None, None, max(1, smooth // 2))
        axes.plot(wave[trim : trim + len(shown)][every], shown[every], color=colour, lw=0.9)
    axes.set_xlabel("rest wavelength [Å]")
    known = wave[np.isfinite(flux).any(0)]
    axes.set_xlim(*(known if len(known) else wave)[[0, -1]])


def _mark_lines(axes: Axes, low: float, high: float) -> None:
    """Mark lines, and name those that lie apart from the one named before."""
    top, named = axes.get_ylim()[1], -np.inf
    for line in lines_within(low, high):
        axes.axvline(line.wave_angstrom, color="#bbbbbb", lw=0.6, zorder=0)
        if line.wave_angstrom - named > NAME_SPACING * (high - low):
            axes.text(
                line.wave_angstrom,
                top,
                line.name,
                rotation=90,
                fontsize=6.5,
                va="top",
                ha="right",
                color="#777777",
            )
            named = line.wave_angstrom
