"""What statmorph says of cleaned images, against what it says of the light without noise.

All methods are measured on the same pixels: the source is where the true light is above the noise of the error map, or a tenth
of its peak where that is fainter, and masked pixels take no part. Other objects are those that are found on each image,
as in a catalogue.
"""

# B images, C bands, S pixels a side

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.false_light import Clean
from benchmarks.training_cutouts import Batch
from engine.images.bands import BANDS
from engine.images.cutout_morphology import (
    SOURCE,
    Cutout,
    CutoutMorphologyConfig,
    find_segments,
    measure_segment,
    usable,
)
from engine.images.morphology import collected
from engine.schema import Arrays
from engine.synthetic.contaminate.target import Target, half_light_snr, measure_target

QUANTITIES = ("rhalf_circ", "concentration", "asymmetry", "gini", "m20", "sersic_n")
CONFIG = CutoutMorphologyConfig()
LEVEL = 0.1
"""Of the peak, down to which the light of a source counts at least."""
GOOD = 1
"""Largest flag of statmorph with which it calls a measurement good: 0 good, 1 suspect."""

Row = dict[str, list[float]]


def shape_table(
    methods: Mapping[str, Clean], batch: Batch, size: int, edges: Sequence[float]
) -> dict[str, dict[str, Row]]:
    """Medians and scatters of quantities less those of the true light, for each method and bin of S/N.

    Parameters
    ----------
    methods
        What makes images [B, C, S, S] of a batch.
    batch
        Contaminated galaxies with their truth: `science`, `error`, `mask`, `clean` [B, C * S * S], `dx`, `dy` [B].
    size
        Pixels a side.
    edges
        Of the bins of S/N within the half-light radius.
    """
    truth, error = (planes(batch, name, size) for name in ("clean", "error"))
    centres = zip(batch["dx"].tolist(), batch["dy"].tolist(), strict=True)
    targets = [measure_target(truth[n], error[n], *centre) for n, centre in enumerate(centres)]
    snr = np.array([half_light_snr(*pair) for pair in zip(truth, error, targets, strict=True)])
    own, true = measured_truth(cutouts(truth, batch, targets))
    table: dict[str, dict[str, Row]] = {}
    for name, clean in methods.items():
        found = measured_within(cutouts(clean(batch), batch, targets), own)
        table[name] = {
            f"{low:g}-{high:g}": differences(found, true, (snr >= low) & (snr < high))
            for low, high in itertools.pairwise(edges)
        }
    return table


def planes(batch: Batch, name: str, size: int) -> np.ndarray:
    return batch[name].reshape(-1, len(BANDS), size, size)


def cutouts(images: np.ndarray, batch: Batch, targets: Sequence[Target]) -> list[Cutout]:
    """Images in the brightest band of each target, with the noise and mask of what was measured."""
    error, mask = (planes(batch, name, images.shape[-1]) for name in ("error", "mask"))
    return [
        Cutout(images[n, t.channel], error[n, t.channel], mask[n, t.channel], t.x, t.y)
        for n, t in enumerate(targets)
    ]


def measured_truth(true: Sequence[Cutout]) -> tuple[list[np.ndarray | None], Arrays]:
    """Pixels of each source (None: too small), and its quantities without noise."""
    segments = [true_segments(one) for one in true]
    own = [None if one is None else one == SOURCE for one in segments]
    return own, collected(map(measure_segment, true, segments))


def true_segments(true: Cutout) -> np.ndarray | None:
    """Return the segments of light without noise, which is all of one source."""
    science, error, mask = usable(true)
    peak = float(np.max(science[~mask] / error[~mask], initial=0.0))
    if peak <= 0:
        return None
    return find_segments(
        true, CONFIG.model_copy(update={"nsigma": min(1.0, LEVEL * peak), "deblend_contrast": 1.0})
    )


def measured_within(seen: Sequence[Cutout], own: Sequence[np.ndarray | None]) -> Arrays:
    """Quantities of images on the pixels of their sources."""
    segments = [
        None if source is None else find_segments(one, CONFIG, source)
        for one, source in zip(seen, own, strict=True)
    ]
    return collected(map(measure_segment, seen, segments))


def differences(found: Arrays, true: Arrays, chosen: np.ndarray) -> Row:
    """Median and scatter by quantity, relative for radii; `measured` is the share that can be compared, and the number of images.

    `good` is the share that statmorph calls good: hardly any of images without noise, as it wants a sky that differs from 0 by
    less than its own scatter. That says nothing of a radius on given pixels.
    """
    measured = np.isfinite(found["rhalf_circ"]) & np.isfinite(true["rhalf_circ"])
    good = measured & (found["flag"] <= GOOD)
    row = {name: [share(values, chosen)] for name, values in (("measured", measured), ("good", good))}
    row["measured"].append(float(chosen.sum()))
    for name in QUANTITIES:
        change = found[name] - true[name]
        change = (change / true[name] if name == "rhalf_circ" else change)[measured & chosen]
        row[name] = middle_and_scatter(change[np.isfinite(change)])
    return row


def share(values: np.ndarray, chosen: np.ndarray) -> float:
    return float(values[chosen].mean()) if chosen.any() else float("nan")


def middle_and_scatter(values: np.ndarray) -> list[float]:
    if not len(values):
        return [float("nan")] * 2
    middle = float(np.median(values))
    return [middle, 1.4826 * float(np.median(np.abs(values - middle)))]


def report(table: Mapping[str, Mapping[str, Row]]) -> None:
    """Print what statmorph says."""
    if table:
        head = f"\n{'statmorph':16}{'S/N':>8}{'images':>8}{'measured':>10}{'good':>6}"
        print(head + "".join(f"{name:>18}" for name in QUANTITIES))
    for method, rows in table.items():
        for snr, row in rows.items():
            measured, images = row["measured"]
            cells = (f"{middle:+9.2f} +-{scatter:6.2f}" for middle, scatter in (row[n] for n in QUANTITIES))
            print(
                f"{method:16}{snr:>8}{images:8.0f}{measured:10.2f}{row['good'][0]:6.2f}"
                + "".join(f"{cell:>18}" for cell in cells)
            )
