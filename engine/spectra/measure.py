"""Simple measurements of lines and continua: evidence for what a latent space knows, not a pipeline's line table.

A line is integrated over a fixed window above a straight continuum between two side windows; nothing is fitted to its
shape. Not here: stellar absorption under emission lines, blends, the line-spread function.
"""

# B spectra, L pixels

from typing import NamedTuple

import numpy as np

LIGHT_KM_S = 299_792.458
HC_OVER_K = 1.438776877e8
"""Second radiation constant [Angstrom K] (CODATA 2018)."""
MIN_USABLE = 0.8
"""Share of the pixels of each window that must be usable."""


class LineWindows(NamedTuple):
    """Rest-frame vacuum wavelengths [Angstrom] of a line, its window, and the windows of its continuum."""

    centre: float
    line: tuple[float, float]
    below: tuple[float, float]
    above: tuple[float, float]


OII = LineWindows(3728.5, (3717.0, 3739.0), (3690.0, 3713.0), (3743.0, 3765.0))
H_ALPHA = LineWindows(6564.61, (6530.0, 6605.0), (6470.0, 6520.0), (6620.0, 6660.0))
"""With [N II], which cannot be told from it at low S/N."""
BROAD_H_BETA = LineWindows(4862.68, (4740.0, 4945.0), (4680.0, 4735.0), (5085.0, 5140.0))
"""Ends before [O III] 4960."""
TEMPERATURE_WINDOWS = ((4400.0, 4700.0), (7000.0, 7300.0))
"""Stellar continuum without strong bands of hot and cool stars [Angstrom]."""


def equivalent_width(
    wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray, windows: LineWindows
) -> np.ndarray:
    """Rest-frame equivalent width, positive in emission.

    Parameters
    ----------
    wave
        Rest-frame wavelengths of the pixels [Angstrom], [B, L], increasing along each row.
    flux, ivar
        [B, L]; ivar = 0 marks an unusable pixel.
    windows
        Where line and continuum are.

    Returns
    -------
    numpy.ndarray
        [B] in Angstrom; NaN where a window has too few usable pixels or the continuum is not positive.
    """
    return np.array([_width(*row, windows) for row in zip(wave, flux, ivar, strict=True)])


def line_width(wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray, windows: LineWindows) -> np.ndarray:
    """Width of a line between 16 and 84 % of its flux.

    Parameters
    ----------
    wave, flux, ivar, windows
        As `equivalent_width` takes them.

    Returns
    -------
    numpy.ndarray
        [B] in km/s, twice the dispersion of a Gaussian; NaN where the line is not in emission, or cannot be measured.
    """
    return np.array([_extent(*row, windows) for row in zip(wave, flux, ivar, strict=True)])


def colour_temperature(wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Temperature of the black body with the same ratio of fluxes in `TEMPERATURE_WINDOWS`.

    Parameters
    ----------
    wave, flux, ivar
        As `equivalent_width` takes them.

    Returns
    -------
    numpy.ndarray
        [B] in K, 2,000 to 50,000; NaN beyond, and where it cannot be measured. Reddening lowers it.
    """
    means = [_window_means(wave, flux, ivar, window) for window in TEMPERATURE_WINDOWS]
    grid = np.geomspace(2000.0, 50_000.0, 400)
    blue, red = (_planck(float(np.mean(window)), grid) for window in TEMPERATURE_WINDOWS)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((means[0] > 0) & (means[1] > 0), means[0] / means[1], np.nan)
    return np.interp(ratio, blue / red, grid, left=np.nan, right=np.nan)


def _planck(wave: float, temperature: np.ndarray) -> np.ndarray:
    """Shape of a black body per unit wavelength."""
    return 1.0 / (wave**5 * np.expm1(HC_OVER_K / (wave * temperature)))


def _window_means(
    wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray, window: tuple[float, float]
) -> np.ndarray:
    inside = (wave >= window[0]) & (wave <= window[1])
    usable = inside & (ivar > 0)
    enough = usable.sum(1) >= np.maximum(MIN_USABLE * inside.sum(1), 3)
    weights = np.where(usable, ivar, 0.0)
    total = weights.sum(1)
    return np.divide(
        (flux * weights).sum(1), total, out=np.full(len(flux), np.nan), where=enough & (total > 0)
    )


def _width(wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray, windows: LineWindows) -> float:
    excess = _excess(wave, flux, ivar, windows)
    return np.nan if excess is None else float(np.trapezoid(excess[1], excess[0]))


def _extent(wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray, windows: LineWindows) -> float:
    excess = _excess(wave, flux, ivar, windows)
    if excess is None:
        return np.nan
    x, y = excess
    sums = np.concatenate([[0.0], np.cumsum(0.5 * (y[1:] + y[:-1]) * np.diff(x))])
    if sums[-1] <= 0:
        return np.nan
    rising = np.maximum.accumulate(sums / sums[-1])  # noise must not let the sum fall
    low, high = np.interp([0.16, 0.84], rising, x)
    return float((high - low) / windows.centre * LIGHT_KM_S)


def _excess(
    wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray, windows: LineWindows
) -> tuple[np.ndarray, np.ndarray] | None:
    """Wavelength and flux over continuum minus 1 in the window of the line; None if they cannot be measured."""
    parts = []
    for low, high in windows[1:]:
        inside = (wave >= low) & (wave <= high)
        usable = inside & (ivar > 0)
        is_covered = wave[0] <= low and wave[-1] >= high
        if not is_covered or usable.sum() < max(MIN_USABLE * inside.sum(), 3):
            return None
        parts.append(usable)
    line, *sides = parts
    (x0, y0), (x1, y1) = ((np.mean(wave[side]), np.average(flux[side], weights=ivar[side])) for side in sides)
    continuum = y0 + (y1 - y0) / (x1 - x0) * (wave[line] - x0)
    if (continuum <= 0).any():
        return None
    return wave[line], flux[line] / continuum - 1.0
