"""Pictures of single sources for the report: observed bands, predicted bands, what is left, and the fluxes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from catalogs.figures import BLUE, VERMILION, new_figure, style, to_png
from catalogs.gallery import GalleryItem
from engine.images.bands import BANDS, LONG_BANDS, PIVOT_UM, SHORT_BANDS

NUM_SHORT = len(SHORT_BANDS)
"""The first bands are the model's input, the others what it predicts."""

SOFTENING_SIGMA = 2.0
"""Noise [sigma] at which the asinh scale of a picture goes from linear to logarithmic."""

MAX_SIGMA = 5.0
"""End of the scale of residuals [sigma]."""


def cutout_png(item: GalleryItem, row: Mapping[str, Any]) -> str:
    """Draw one object: colour composites, long bands with residuals, and its spectral energy distribution.

    Parameters
    ----------
    item
        `inputs` has `science`, `error` and `mask` [6 S S]; `outputs` has `recon` and `sigma` [3 S S], nJy a pixel.
    row
        Its row of the catalogue: fluxes with their errors, measured and predicted.

    Returns
    -------
    uri
        `data:` URI of a PNG.
    """
    science, error, mask = (planes(item.inputs[name]) for name in ("science", "error", "mask"))
    science = np.where(mask, np.nan, science)
    predicted, scatter = (planes(item.outputs[name]) for name in ("recon", "sigma"))
    noise = np.nanmedian(np.where(error > 0, error, np.nan), axis=(1, 2)) if (error > 0).any() else np.ones(6)
    sigmas = (science[NUM_SHORT:] - predicted) / np.hypot(error[NUM_SHORT:], scatter)
    with style():
        figure = new_figure(10.5, 3.8)
        images, fluxes = figure.subfigures(1, 2, width_ratios=(2.1, 1))  # pyright: ignore
        _draw_images(images, science, predicted, sigmas, np.nan_to_num(noise, nan=1.0))
        _draw_fluxes(fluxes.subplots(), row)
        return to_png(figure)


def planes(flat: np.ndarray) -> np.ndarray:
    """Flat values in order band, y, x as [bands, S, S]; the pixels of a band are a square."""
    for bands in (len(BANDS), len(LONG_BANDS)):
        size = round((flat.size / bands) ** 0.5)
        if bands * size * size == flat.size:
            return flat.reshape(bands, size, size)
    raise ValueError(f"{flat.size} values are no square cutouts in {len(BANDS)} or {NUM_SHORT} bands")


def composite(planes: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Colour picture of three bands, the reddest red.

    Parameters
    ----------
    planes
        [3, S, S] in order of wavelength; NaN without data.
    noise
        [3] one sigma of a pixel, in the unit of the planes: the scale of the stretch.

    Returns
    -------
    numpy.ndarray
        [S, S, 3] from 0 to 1, one scale for the three bands, so that colours of objects can be compared.

    References
    ----------
    Lupton et al. (2004), PASP 116, 133: the asinh stretch.
    """
    stretched = np.arcsinh(planes[::-1] / (SOFTENING_SIGMA * noise[::-1, None, None]))
    finite = stretched[np.isfinite(stretched)]
    high = max(float(np.quantile(finite, 0.998)), 1.0) if finite.size else 1.0
    return np.moveaxis(np.clip(np.nan_to_num(stretched / high, nan=0.35), 0.0, 1.0), 0, -1)


def _draw_images(
    figure: Any, science: np.ndarray, predicted: np.ndarray, sigmas: np.ndarray, noise: np.ndarray
) -> None:
    """Two rows: composites first, then observed, predicted and residual of each long band side by side."""
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.5, 1))  # pyright: ignore - an array here
    short, long = slice(0, NUM_SHORT), slice(NUM_SHORT, None)
    panels = (
        ("short bands", science[short], noise[short]),
        ("long bands, observed", science[long], noise[long]),
        ("long bands, predicted", predicted, noise[long]),
    )
    for axes, (title, planes, scale) in zip(upper.subplots(1, 3), panels, strict=True):
        axes.imshow(composite(planes, scale), origin="lower")
        frame(axes, title)
    grid = lower.subplots(1, 9)
    for band, name in enumerate(BANDS[long]):
        _draw_band(
            grid[3 * band : 3 * band + 3], name, science[long][band], predicted[band], sigmas[band],
            noise[long][band],
        )  # fmt: skip


def _draw_band(
    axes: np.ndarray, name: str, observed: np.ndarray, predicted: np.ndarray, sigmas: np.ndarray, noise: float
) -> None:
    stretch = [np.arcsinh(plane / (SOFTENING_SIGMA * noise)) for plane in (observed, predicted)]
    finite = stretch[0][np.isfinite(stretch[0])]
    high = max(float(np.quantile(finite, 0.998)), 1.0) if finite.size else 1.0
    for panel, plane, title in zip(axes, stretch, (name.upper(), "predicted"), strict=False):
        panel.imshow(plane, origin="lower", cmap="gray", vmin=-0.5, vmax=high)
        frame(panel, title)
    axes[2].imshow(sigmas, origin="lower", cmap="RdBu_r", vmin=-MAX_SIGMA, vmax=MAX_SIGMA)
    frame(axes[2], "residual")


def frame(axes: Axes, title: str) -> None:
    """Give a picture its title, and neither ticks nor border."""
    axes.set_facecolor("#9a9a9a")
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=7)


def _draw_fluxes(axes: Axes, row: Mapping[str, Any]) -> None:
    """Measured and predicted fluxes against wavelength; logarithmic where all measured ones are positive."""
    flux, error = (_values(row, f"{kind}_{{}}", BANDS) for kind in ("flux", "flux_error"))
    long = LONG_BANDS
    model, model_error = (
        _values(row, f"{kind}_{{}}", long) for kind in ("flux_predicted", "flux_predicted_error")
    )
    wave = np.array([PIVOT_UM[band] for band in BANDS])
    axes.errorbar(wave, flux, error, fmt="o", ms=5, color=BLUE, capsize=2, label="measured")
    axes.errorbar(wave[NUM_SHORT:] * 1.01, model, model_error, fmt="s", ms=5, mfc="none", color=VERMILION,
                  capsize=2, label="predicted")  # fmt: skip
    shown = np.concatenate([flux, model])
    if (shown[np.isfinite(shown)] > 0).all():
        axes.set_yscale("log")
    axes.set_xlabel("wavelength [µm]")
    axes.set_ylabel("flux in the aperture [nJy]")
    axes.legend(loc="best")


def _values(row: Mapping[str, Any], pattern: str, bands: tuple[str, ...]) -> np.ndarray:
    found = [row.get(pattern.format(band)) for band in bands]
    return np.array([np.nan if value is None else value for value in found], np.float64)
