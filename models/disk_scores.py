"""Probabilities of the disk classifier: calibration on held-out objects of known class, and columns.

The temperatures that are published are found on all held-out objects. How good probabilities are after that is measured
with temperatures of the other half of them: nothing is judged by the objects that it was fitted to.
"""

# B objects, N held-out objects of known class, M bins

import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from engine.column import Column
from engine.flags import LOW_SNR, NOT_SCORED, TRUNCATED
from models.disk_classifier_config import DiskClassifierConfig
from models.disk_images import DISK, LABEL, NO_DISK, UNKNOWN, classifier_input, views
from models.disk_packed import packed
from models.scoring.aperture import INDEPENDENT
from models.scoring.cutouts import Cutouts
from models.scoring.probabilities import (
    brier_score,
    calibration_error,
    cross_fitted,
    fit_temperature,
    halves,
    reliability,
    sigmoid,
)
from models.spec import Batch, Predict

MEASURED = "_measured"
"""End of the names of what was fitted to images as measured, where denoised ones are judged."""
MIN_HELD_OUT = 2
"""Held-out objects of each class, at least: one for each half."""
GPU_ROWS = 256
"""Objects at once on a GPU, at least: fewer leave it idle."""


def columns(config: DiskClassifierConfig) -> tuple[Column, ...]:
    """All columns that `predictor` gives, beside bits for `flags`."""
    judged = "denoised" if config.use_denoised else "measured"
    reddest = config.bands[-1].upper()
    of_both = (
        Column("prob_disk_raw_calibrated", "float32",
               "Probability of a disk from the measured cutouts, calibrated by a temperature of their own; NaN "
               "where the checkpoint has none",
               ucd="stat.probability"),
        Column("prob_disk_denoised", "float32",
               "Probability of a disk from the denoised cutouts, not calibrated",
               ucd="stat.probability"),
    )  # fmt: skip
    return (
        Column("logit_disk", "float32", "Log odds of a disk from the measured cutouts, not calibrated"),
        Column("prob_disk_raw", "float32", "Probability of a disk from the measured cutouts, not calibrated",
               ucd="stat.probability"),
        *(of_both if config.use_denoised else ()),
        Column("prob_disk", "float32",
               f"Probability of a disk from the {judged} cutouts, calibrated by a temperature",
               ucd="stat.probability"),
        Column("disk_class", "int8",
               f"{DISK}: prob_disk is at least {config.threshold:g}, {NO_DISK}: below, {UNKNOWN}: no probability",
               ucd="meta.code.class"),
        Column("half_light_radius", "float32",
               f"Half-light radius of the {judged} {reddest} image with its PSF, within a third of the cutout's side",
               "arcsec", ucd="phys.angSize"),
        Column("snr", "float32",
               f"Signal to noise of the {reddest} flux within {config.aperture_radius_arcsec:g} arcsec, {INDEPENDENT}",
               ucd="stat.snr"),
    )  # fmt: skip


class _Measured(NamedTuple):
    """Log odds of the measured and of the judged images, S/N, size, whether too large, whether observed; [B] each."""

    logit: np.ndarray
    judged: np.ndarray
    snr: np.ndarray
    half_light: np.ndarray
    is_truncated: np.ndarray
    is_observed: np.ndarray


def fit(
    config: DiskClassifierConfig,
    module: nn.Module,
    reference: Iterable[Batch],  # noqa: ARG001 - nothing is learned from objects that were trained on
    held_out: Iterable[Batch],
) -> dict[str, np.ndarray]:
    """Find the temperature on held-out objects, and measure how good the probabilities are before and after.

    Parameters
    ----------
    module
        Of `ModelSpec.build`, with its weights.
    reference
        Not used.
    held_out
        Batches with the columns that the model reads and `label`.

    Returns
    -------
    dict
        float32: `temperature` [1] of all held-out objects, `temperature_halves` [2] of two halves of them;
        `calibration_error` and `brier` [2], before and after; `reliability_raw` and `reliability_calibrated` [M, 3],
        see `models.scoring.probabilities.reliability`. What is measured after is at the temperature of the other half.
        With denoised images all this is of them, and the same names with `_measured` are of images as measured.

    Raises
    ------
    ValueError
        If there are fewer than two held-out objects of either label.
    """
    found = _held_out(config, module, held_out)
    half = halves(found.key, found.outcome)
    fitted = _calibrated(config, found.judged, found.outcome, half)
    if config.use_denoised:
        measured = _calibrated(config, found.measured, found.outcome, half)
        fitted |= {name + MEASURED: values for name, values in measured.items()}
    return fitted


def _calibrated(
    config: DiskClassifierConfig, logits: np.ndarray, outcome: np.ndarray, half: np.ndarray
) -> dict[str, np.ndarray]:
    """Temperature, and measures before it and after that of the other half."""
    after, temperatures = cross_fitted(logits, outcome, half)
    pair = [sigmoid(logits), after]
    tables = [reliability(probability, outcome, config.num_bins) for probability in pair]
    fitted = {
        "temperature": [fit_temperature(logits, outcome)],
        "temperature_halves": temperatures,
        "calibration_error": [calibration_error(table) for table in tables],
        "brier": [brier_score(probability, outcome) for probability in pair],
        "reliability_raw": tables[0],
        "reliability_calibrated": tables[1],
    }
    return {name: np.asarray(values, np.float32) for name, values in fitted.items()}


def predictor(
    config: DiskClassifierConfig, module: nn.Module, fitted: Mapping[str, np.ndarray], device: torch.device
) -> Predict:
    """Return the function from columns to columns.

    Objects without enough usable pixels in one of the three bands get NaN and the flag NOT_SCORED.

    Raises
    ------
    ValueError
        If an array of `fit` is missing or of another shape.
    """
    temperature = _checked(config, fitted)["temperature"][0]
    of_measured = fitted.get("temperature" + MEASURED, np.full(1, np.nan))[0]
    module = module.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    module = packed(module, config.batch_rows)

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        found = _measure(config, module, batch, device)
        out: dict[str, np.ndarray] = {"logit_disk": found.logit, "prob_disk_raw": sigmoid(found.logit)}
        if config.use_denoised:
            out["prob_disk_raw_calibrated"] = sigmoid(found.logit / of_measured)
            out["prob_disk_denoised"] = sigmoid(found.judged)
        out["prob_disk"] = sigmoid(found.judged / temperature)
        out = {name: np.where(found.is_observed, values, np.nan) for name, values in out.items()}
        out |= {"snr": found.snr, "half_light_radius": found.half_light}
        out = {name: values.astype(np.float32) for name, values in out.items()}
        chosen = np.where(out["prob_disk"] >= config.threshold, DISK, NO_DISK)
        out["disk_class"] = np.where(found.is_observed, chosen, UNKNOWN).astype(np.int8)
        return out | {"flags": _flags(found, config.min_snr)}

    return predict


def _flags(found: _Measured, min_snr: float) -> np.ndarray:
    bits = np.where(found.is_observed, 0, NOT_SCORED.value)
    is_faint = found.is_observed & (found.snr < min_snr)
    # How far noise reaches says nothing of the object.
    is_truncated = found.is_observed & found.is_truncated & ~is_faint
    bits |= np.where(is_faint, LOW_SNR.value, 0)
    return (bits | np.where(is_truncated, TRUNCATED.value, 0)).astype(np.int32)


class _HeldOut(NamedTuple):
    """Log odds of the measured and of the judged images, class, and hash of the pixels; [N] each."""

    measured: np.ndarray
    judged: np.ndarray
    outcome: np.ndarray
    key: np.ndarray


def _held_out(config: DiskClassifierConfig, module: nn.Module, batches: Iterable[Batch]) -> _HeldOut:
    """Objects of known class."""
    device, num_rows = next(module.parameters()).device, 0
    parts = [_HeldOut(np.empty(0), np.empty(0), np.empty(0, np.int8), np.empty(0, np.uint32))]
    for batch in batches:
        found, label = _measure(config, module, batch, device), np.asarray(batch[LABEL.name], np.int8)
        known = found.is_observed & (label != UNKNOWN)
        key = np.array([zlib.crc32(row.tobytes()) for row in batch["science"]], np.uint32)
        parts.append(_HeldOut(found.logit[known], found.judged[known], label[known], key[known]))
        num_rows += len(known)
    whole = _HeldOut(*(np.concatenate(pieces) for pieces in zip(*parts, strict=True)))
    counts = {value: int((whole.outcome == value).sum()) for value in (NO_DISK, DISK)}
    if min(counts.values()) < MIN_HELD_OUT:
        told = ", ".join(f"{value}: {num}" for value, num in counts.items())
        raise ValueError(
            f"held_out has {num_rows} objects ({told}), must have {MIN_HELD_OUT} of label {DISK} (disk) and of "
            f"{NO_DISK} (not a disk) at least, with all of {', '.join(config.bands)} observed"
        )
    return whole


def _measure(
    config: DiskClassifierConfig, module: nn.Module, batch: Batch, device: torch.device
) -> _Measured:
    """Run a batch of any size through the network, `batch_rows` at a time."""
    module = module.eval()
    rows = config.batch_rows if device.type == "cpu" else max(config.batch_rows, GPU_ROWS)
    names = [column.name for column in classifier_input(config)]
    parts: list[_Measured] = []
    with torch.inference_mode():
        for start in range(0, max(len(batch[names[0]]), 1), rows):
            seen = views(config, {name: batch[name][start : start + rows] for name in names}, device)
            logit = _log_odds(module, seen.science)
            judged = logit if seen.denoised is None else _log_odds(module, seen.denoised)
            found = (logit, judged, seen.snr, seen.half_light, seen.is_truncated, seen.is_observed)
            parts.append(_Measured(*(tensor.cpu().numpy() for tensor in found)))
    return _Measured(*(np.concatenate(pieces) for pieces in zip(*parts, strict=True)))


def _log_odds(module: nn.Module, images: Cutouts) -> torch.Tensor:
    logits = module(images).double()
    return logits[:, DISK] - logits[:, NO_DISK]


def _checked(config: DiskClassifierConfig, fitted: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    table = (config.num_bins, 3)
    expected = {
        "temperature": (1,), "calibration_error": (2,), "brier": (2,),
        "reliability_raw": table, "reliability_calibrated": table,
    }  # fmt: skip
    if "temperature" + MEASURED in fitted:
        expected |= {name + MEASURED: shape for name, shape in expected.items()}
    for name, shape in expected.items():
        found = fitted.get(name)
        if found is None or found.shape != shape:
            got = "nothing" if found is None else found.shape
            raise ValueError(f"{name}: got {got}, expected an array {shape}; fit the scores anew")
    return fitted
