"""Pictures of single spectra for the report: data, reconstruction, residual, lines, worst window."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from catalogs.figures import BLUE, GREY, ORANGE, VERMILION, new_figure, smooth, style, to_png
from engine.spectra.explain import is_forbidden
from engine.spectra.lines import Line, lines_within

SMOOTH_PIXELS = 9
"""Window of the smoothed curves; 7 Angstrom on DESI's grid, about the width of a narrow line."""

MIN_ZOOM_ANGSTROM = 150.0
MIN_LABEL_DISTANCE = 0.022
"""Labels of lines keep this distance [fraction of the axis]; preferred ones are placed first."""

_PREFERRED = (
    "H α", "[O III]", "H β", "[O II]", "Mg II", "C IV", "Ly α", "C III]", "Ca K", "Mg b", "Na D", "H γ", "[S II]",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A spectrum as the model saw it and what the model made of it.

    Parameters
    ----------
    wave
        Pixel centres [L, Angstrom, vacuum], in `frame`.
    flux, ivar
        Prepared flux [L] and its inverse variance, 0 where unusable.
    recon, sigma
        The model's mean [L] and its own scatter [L], in the unit of `flux`.
    frame
        Whether `wave` is observed or at rest.
    """

    wave: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    recon: np.ndarray
    sigma: np.ndarray
    frame: Literal["observed", "rest"] = "observed"


def residual(item: Spectrum) -> np.ndarray:
    """Residual [L] in standard deviations of noise and model scatter together; NaN where unusable."""
    usable = item.ivar > 0
    variance = np.divide(1.0, item.ivar, out=np.ones(item.wave.shape), where=usable) + item.sigma**2
    return np.where(usable, (item.flux - item.recon) / np.sqrt(variance), np.nan)


def spectrum_png(item: Spectrum, row: Mapping[str, Any]) -> str:
    """Draw one object: whole spectrum and the window with the most excess chi2, each with residuals.

    Parameters
    ----------
    item
        Spectrum and reconstruction.
    row
        Its row of the catalogue: `z`, `zwarn`, `norm`, `worst_wave_min` and `worst_wave_max` are used, and where there
        are `window_wave_min` and `window_wave_max`.

    Returns
    -------
    uri
        `data:` URI of a PNG.
    """
    with style():
        figure = new_figure(10.5, 4.0)
        grid = figure.add_gridspec(2, 2, height_ratios=(2.4, 1), width_ratios=(2.7, 1))
        full, zoom = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        lower = figure.add_subplot(grid[1, 0], sharex=full), figure.add_subplot(grid[1, 1], sharex=zoom)
        window = _window(row)
        for axes, below, limits in ((full, lower[0], None), (zoom, lower[1], window)):
            xlim = (float(item.wave[0]), float(item.wave[-1])) if limits is None else _zoomed(*limits)
            _draw_flux(axes, item, float(row.get("norm") or 1.0), xlim)
            _draw_residual(below, item, xlim)
            _shade(window, _others(row), axes, below)
            _mark_lines(axes, row, item.frame, xlim)
            axes.tick_params(labelbottom=False)
            below.set_xlabel(
                f"{item.frame} wavelength [Å]" if axes is full else "around the worst window [Å]"
            )
        full.set_ylabel("flux [1e-17 erg/s/cm²/Å]")
        lower[0].set_ylabel("residual [σ]")
        full.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.0)
        return to_png(figure)


def _window(row: Mapping[str, Any]) -> tuple[float, float] | None:
    low, high = (_number(row.get(name)) for name in ("worst_wave_min", "worst_wave_max"))
    return (low, high) if np.isfinite([low, high]).all() else None


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _zoomed(low: float, high: float) -> tuple[float, float]:
    half = max(1.5 * (high - low), MIN_ZOOM_ANGSTROM) / 2
    centre = (low + high) / 2
    return centre - half - (high - low) / 2, centre + half + (high - low) / 2


def _draw_flux(axes: Axes, item: Spectrum, norm: float, xlim: tuple[float, float]) -> None:
    raw = np.where(item.ivar > 0, item.flux, np.nan) * norm
    mean = smooth(item.flux, item.ivar, SMOOTH_PIXELS) * norm
    recon = item.recon * norm
    axes.plot(item.wave, raw, color="#c8c8c8", lw=0.5, label="data", rasterized=True)
    axes.plot(item.wave, mean, color=BLUE, lw=0.9, label=f"smoothed over {SMOOTH_PIXELS} pixels")
    axes.plot(item.wave, recon, color=VERMILION, lw=0.9, label="reconstruction")
    axes.set_xlim(*xlim)
    inside = (item.wave >= xlim[0]) & (item.wave <= xlim[1])
    axes.set_ylim(*_limits(np.concatenate([mean[inside], recon[inside]]), head=0.35))


def _draw_residual(axes: Axes, item: Spectrum, xlim: tuple[float, float]) -> None:
    sigmas = residual(item)
    axes.plot(item.wave, sigmas, color="#b0b0b0", lw=0.4)
    usable = (item.ivar > 0).astype(float)
    axes.plot(item.wave, smooth(np.nan_to_num(sigmas), usable, SMOOTH_PIXELS), color=BLUE, lw=0.9)
    axes.axhline(0, color="#555555", lw=0.6)
    for level in (-3, 3):
        axes.axhline(level, color="#555555", lw=0.5, ls=(0, (4, 4)))
    inside = sigmas[(item.wave >= xlim[0]) & (item.wave <= xlim[1])]
    low, high = _limits(inside, head=0.05)
    axes.set_ylim(min(low, -4.5), max(high, 4.5))


def _limits(values: np.ndarray, head: float) -> tuple[float, float]:
    """Return the range that holds all but the most extreme values, with room for labels above."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return -1.0, 1.0
    low, high = np.quantile(finite, [0.001, 0.999])
    span = max(float(high - low), 1e-6 * max(abs(float(high)), 1e-3))
    return float(low) - 0.08 * span, float(high) + head * span


def _others(row: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return the windows after the worst."""
    low, high = (list(map(float, row.get(f"window_wave_{end}") or ())) for end in ("min", "max"))
    return [ends for ends in zip(low, high, strict=True) if np.isfinite(ends).all()][1:]


def _shade(worst: tuple[float, float] | None, others: Sequence[tuple[float, float]], *panels: Axes) -> None:
    for axes in panels:
        left, right = axes.get_xlim()
        for window, alpha in ([(worst, 0.22)] if worst else []) + [(other, 0.1) for other in others]:
            if window[0] < right and window[1] > left:
                axes.axvspan(*window, color=ORANGE, alpha=alpha, lw=0)
        axes.set_xlim(left, right)


def _mark_lines(axes: Axes, row: Mapping[str, Any], frame: str, xlim: tuple[float, float]) -> None:
    redshift = _number(row.get("z"))
    if not np.isfinite(redshift):
        return
    z = redshift if frame == "observed" else 0.0
    colour = GREY if row.get("zwarn") else "#222222"
    is_star = row.get("spectype") == "STAR"
    lines = [line for line in lines_within(*xlim, z) if not (is_star and is_forbidden(line))]
    labelled = _placed(lines, (xlim[1] - xlim[0]) * _label_distance(axes), 1 + z)
    transform = axes.get_xaxis_transform()
    for line in lines:
        x = line.wave_angstrom * (1 + z)
        axes.plot(
            [x, x],
            [0.80, 0.84] if line in labelled else [0.82, 0.84],
            transform=transform,
            color=colour,
            lw=0.7,
        )
        if line in labelled:
            axes.text(x, 0.855, line.name, transform=transform, rotation=90, ha="center", va="bottom",
                      fontsize=6.5, color=colour)  # fmt: skip


def _label_distance(axes: Axes) -> float:
    """Scale the distance of labels to the width of the panel, in fractions of it."""
    width = axes.get_subplotspec().get_position(axes.get_figure()).width  # pyright: ignore
    return MIN_LABEL_DISTANCE * 0.7 / max(width, 0.1)


def _placed(lines: Sequence[Line], distance: float, stretch: float) -> set[Line]:
    order = {name: index for index, name in enumerate(_PREFERRED)}
    by_preference = sorted(lines, key=lambda line: (order.get(line.name, 99), -line.wave_angstrom))
    placed: list[Line] = []
    for line in by_preference:
        if all(abs(line.wave_angstrom - other.wave_angstrom) * stretch >= distance for other in placed):
            placed.append(line)
    return set(placed)
