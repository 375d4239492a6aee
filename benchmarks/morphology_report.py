"""Tables of `benchmarks.morphology`: measures of each network and what denoising gains, with intervals.

An interval holds 95 % of bootstrap samples in which the test galaxies and the seeds are drawn anew, with replacement and
together: the same galaxies and seeds for all networks and both kinds of images, so that differences are paired. It covers
which galaxies were there to test, and from where training starts; not which galaxies were there to train on, and the part
of S seeds is too narrow by sqrt((S - 1) / S), as their scatter is about their own mean.
"""

# S seeds, C conditions, N test galaxies, M measures, R samples

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.disk_images import DISK, NO_DISK
from models.scoring.probabilities import auroc, calibration_error, reliability, sigmoid

NUM_BOOTSTRAP = 1000
KINDS = RAW, DENOISED = "raw", "denoised"
"""Images that a network is trained and tested on."""


@dataclass(frozen=True)
class Verdicts:
    """What a network says of the test galaxies.

    Parameters
    ----------
    odds
        [S, C, N] log odds of a disk, NaN where not observed.
    temperature
        [S] of the held-out galaxies.
    label, is_far
        [N] class, and whether it is in the measure of the far ones.
    """

    odds: np.ndarray
    temperature: np.ndarray
    label: np.ndarray
    is_far: np.ndarray


@dataclass(frozen=True)
class Network:
    """Number of learned parameters, and what the network says of each kind of images."""

    parameters: int
    kinds: Mapping[str, Verdicts]


def titles(far: float) -> dict[str, str]:
    """Name the measures of `measures`, in their order; `far` is a redshift."""
    return {
        "accuracy": "Accuracy", "balanced": "Balanced accuracy", "auroc": "AUROC",
        "far": f"AUROC beyond z = {far:g}", "ece": "Expected calibration error",
    }  # fmt: skip


def measures(odds: np.ndarray, temperature: float, label: np.ndarray, is_far: np.ndarray) -> dict[str, float]:
    """Measure one network on galaxies [N]; those of NaN odds are left out."""
    known = np.isfinite(odds)
    odds, label, is_far = odds[known], label[known], is_far[known]
    right = (odds > 0) == (label == DISK)
    with np.errstate(invalid="ignore"):  # a sample may lack a class
        of_classes = [right[label == c].sum() / np.sum(label == c) for c in (NO_DISK, DISK)]
    return {
        "accuracy": float(right.mean()),
        "balanced": float(np.mean(of_classes)),
        "auroc": auroc(odds, label),
        "far": auroc(odds[is_far], label[is_far]),
        "ece": calibration_error(reliability(sigmoid(odds / temperature), label)),
    }


def per_seed(verdicts: Verdicts, conditions: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """Return measures of each seed on all galaxies, by condition."""
    return {
        condition: [
            measures(odds[place], temperature, verdicts.label, verdicts.is_far)
            for odds, temperature in zip(verdicts.odds, verdicts.temperature, strict=True)
        ]
        for place, condition in enumerate(conditions)
    }


def sampled(verdicts: Verdicts, num: int) -> np.ndarray:
    """Take means over seeds [1 + R, C, M]: of what was measured, then of bootstrap samples, the same ones at each call."""
    found = []
    for seeds, rows in _samples(*verdicts.odds.shape[::2], num):
        of_seeds = [
            [
                [*measures(odds[rows], temperature, verdicts.label[rows], verdicts.is_far[rows]).values()]
                for odds in verdicts.odds[seed]
            ]
            for seed, temperature in enumerate(verdicts.temperature)
        ]
        found.append(np.mean(np.array(of_seeds)[seeds], 0))
    return np.stack(found)


def _samples(num_seeds: int, num_galaxies: int, num: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    yield np.arange(num_seeds), np.arange(num_galaxies)
    for _ in range(num):
        yield rng.integers(num_seeds, size=num_seeds), rng.integers(num_galaxies, size=num_galaxies)


def report(networks: Mapping[str, Network], conditions: Sequence[str], far: float) -> list[str]:
    """Format a table for each measure, and one of what denoising gains in each."""
    values = {
        name: {kind: sampled(verdicts, NUM_BOOTSTRAP) for kind, verdicts in found.kinds.items()}
        for name, found in networks.items()
    }
    lines = list[str]()
    for place, title in enumerate(titles(far).values()):
        rows = [
            [name, f"{networks[name].parameters:,}", kind, *_cells(of_kinds[kind][:, :, place])]
            for name, of_kinds in values.items()
            for kind in KINDS
        ]
        lines += [*table(title, ["network", "parameters", "images", *conditions], rows), ""]
    for place, title in enumerate(titles(far).values()):
        rows = [[name, *_cells(gain(of_kinds)[:, :, place], "+")] for name, of_kinds in values.items()]
        lines += [*table(f"{title}, denoised minus raw", ["network", *conditions], rows), ""]
    return lines


def gain(of_kinds: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what denoising adds to each measure, sample by sample: [1 + R, C, M]."""
    return of_kinds[DENOISED] - of_kinds[RAW]


def _cells(values: np.ndarray, sign: str = "") -> list[str]:
    return [shown(column, sign) for column in values.T]


def shown(values: np.ndarray, sign: str = "") -> str:
    """Format a measure with its interval, [1 + R] of `sampled`."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return f"{values[0]:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def table(title: str, head: list[str], rows: list[list[str]]) -> list[str]:
    """Format a markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return [f"{title}:", "", *lines]
