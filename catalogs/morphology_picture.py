"""Pictures of single sources for the report on morphology: as measured, as cleaned, and what was taken away."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from catalogs.cutout_picture import MAX_SIGMA, composite, frame, planes
from catalogs.figures import new_figure, style, to_png
from catalogs.gallery import GalleryItem
from engine.images.bands import BANDS

SHOWN = ("f150w", "f277w", "f444w")
"""Bands of the composite, from blue to red; the last one is that of the residual."""


def morphology_png(item: GalleryItem, row: Mapping[str, Any]) -> str:
    """Draw one object.

    Parameters
    ----------
    item
        `inputs` has `science`, `error`, `mask` and, where a denoiser was applied, `denoised` [6 S S], nJy a pixel.
    row
        Its row of the catalogue.

    Returns
    -------
    uri
        `data:` URI of a PNG.
    """
    places = [BANDS.index(band) for band in SHOWN]
    science, error, mask = (planes(item.inputs[name])[places] for name in ("science", "error", "mask"))
    science = np.where(mask, np.nan, science)
    noise = np.array([np.median(e[e > 0]) if (e > 0).any() else 1.0 for e in error])
    denoised = item.inputs.get("denoised")
    with style():
        figure = new_figure(3.0 if denoised is None else 8.4, 3.0)
        panels = figure.subplots(1, 1 if denoised is None else 3, squeeze=False)[0]
        panels[0].imshow(composite(science, noise), origin="lower")
        frame(panels[0], f"as measured, P = {row['prob_disk_raw']:.2f}")
        if denoised is not None:
            _draw_cleaned(panels[1:], science, planes(denoised)[places], error, noise, row)
        return to_png(figure)


def _draw_cleaned(
    panels: np.ndarray,
    science: np.ndarray,
    cleaned: np.ndarray,
    error: np.ndarray,
    noise: np.ndarray,
    row: Mapping[str, Any],
) -> None:
    panels[0].imshow(composite(cleaned, noise), origin="lower")
    frame(panels[0], f"cleaned, calibrated P = {row['prob_disk']:.2f}")
    sigma = np.where(
        error[-1] > 0, (science[-1] - cleaned[-1]) / np.where(error[-1] > 0, error[-1], 1), np.nan
    )
    panels[1].imshow(sigma, origin="lower", cmap="RdBu_r", vmin=-MAX_SIGMA, vmax=MAX_SIGMA)
    frame(panels[1], f"taken away, {SHOWN[-1].upper()}")
