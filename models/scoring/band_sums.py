"""Sums over the pixels of objects whose LW bands were predicted: fluxes in apertures, chi2, absolute residuals.

The network is seen only as a function from SW cutouts to a prediction. All in torch, in mini-batches.
"""

# B objects, S pixels a side, F features; arrays of bands are [B, 3] LW or [B, 6] all

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.scoring.aperture import apertures, magnitude_residual, photometry, usable_weights
from models.scoring.band_columns import BandScoringConfig
from models.scoring.cutouts import LW, SW, Cutouts, cutouts
from models.spec import Batch

Raw = dict[str, np.ndarray]


class Prediction(NamedTuple):
    """Predicted LW flux and its intrinsic scatter [nJy], [B, 3, S, S] each; features of the input, [B, F]."""

    flux: Tensor
    sigma: Tensor
    features: Tensor


PredictBands = Callable[[Cutouts], Prediction]


class Scorer:
    """Sums over pixels of objects under one network.

    Parameters
    ----------
    config
        How to score.
    size
        Pixels a side.
    predict
        From SW cutouts to the prediction; the network in eval mode, on `device`.
    device
        Where to compute.
    """

    def __init__(
        self, config: BandScoringConfig, size: int, predict: PredictBands, device: torch.device
    ) -> None:
        self.config, self._size, self._predict, self._device = config, size, predict, device

    def __call__(self, batch: Batch) -> Raw:
        """Measure a batch of any size."""
        rows, total = self.config.batch_rows, len(batch["science"])
        parts: list[dict[str, Tensor]] = []
        with torch.inference_mode():
            for start in range(0, max(total, 1), rows):
                parts.append(self._score({k: v[start : start + rows] for k, v in batch.items()}))
        return {key: torch.cat([part[key] for part in parts]).cpu().numpy() for key in parts[0]}

    def _score(self, batch: Batch) -> dict[str, Tensor]:
        images = cutouts(batch, self._size, self._device)
        weights = apertures(self.config.aperture_radius_arcsec, batch, images)
        measured = photometry(images, weights)
        prediction = self._predict(images.bands(SW))
        target = _comparable(images)
        residual = torch.where(target.usable, target.science - prediction.flux, 0)
        variance = target.error.square() + prediction.sigma.square()
        num_pixels = target.usable.sum((2, 3))
        out = {
            "flux": measured.flux,
            "flux_error": measured.error,
            "fraction": measured.fraction,
            "chi2": (residual.square() / variance).sum((2, 3)),
            "num_pixels": num_pixels,
            "absolute": residual.abs().sum((2, 3)) * self._size**2 / num_pixels,
            "features": prediction.features,
        } | _predicted(prediction, target, weights)
        if self.config.write_predicted:
            out["predicted"] = prediction.flux.flatten(1)
        if self.config.write_residual:
            out["residual"] = torch.where(target.usable, residual, torch.nan).flatten(1)
        return out


def _comparable(images: Cutouts) -> Cutouts:
    """LW bands, usable where the SW bands are too: elsewhere a prediction is a guess, and no object strange for it."""
    target = images.bands(LW)
    return target._replace(usable=target.usable & images.bands(SW).usable.all(1, keepdim=True))


def _predicted(prediction: Prediction, target: Cutouts, weights: Tensor) -> dict[str, Tensor]:
    """Flux predicted in the usable pixels, and its error if pixels err alike or independently."""
    good = usable_weights(target.usable, weights)
    fraction = good.sum((2, 3)) / weights.sum((1, 2))[:, None]
    return {
        "compared_fraction": fraction,
        "predicted_flux": (good * prediction.flux).sum((2, 3)) / fraction,
        "coherent_error": (good * prediction.sigma).sum((2, 3)) / fraction,
        "independent_error": (good.square() * prediction.sigma.square()).sum((2, 3)).sqrt() / fraction,
    }


def magnitude_residuals(config: BandScoringConfig, batch: Batch, images: Cutouts, flux: Tensor) -> np.ndarray:
    """Measured minus predicted aperture magnitudes for predicted LW fluxes [B, 3, S, S].

    Returns
    -------
    numpy.ndarray
        [B, 3] as `magnitude_residual` defines it, NaN where the band was not observed.
    """
    weights, target = apertures(config.aperture_radius_arcsec, batch, images), images.bands(LW)
    measured = photometry(target, weights)
    predicted = photometry(target._replace(science=flux), weights)
    arrays = (part.cpu().numpy() for part in (measured.flux, predicted.flux, measured.error))
    observed = measured.fraction.cpu().numpy() >= config.min_aperture_fraction
    with np.errstate(invalid="ignore"):
        return np.where(observed, magnitude_residual(*arrays), np.nan)
