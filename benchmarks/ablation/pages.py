"""The pages of the ablation: the tables that fit beside text, and the long ones by kind and S/N."""

import argparse
from typing import Any

import numpy as np

from benchmarks.ablation import table
from benchmarks.ablation.evaluate import PLAIN
from benchmarks.ablation.methods import METHODS

OURS = "anomaly_score"
TITLES = {name: method.title for name, method in METHODS.items()} | {
    "shipped": "shipped, observed frame (more pixels, latents, spectra)",
    "shipped_rest": "shipped, rest frame (more spectra)",
}

Found = dict[str, dict[int, dict[str, Any]]]
"""As `table.Results`."""


def report(found: Found, args: argparse.Namespace) -> str:
    """All tables but those of `report_by_snr`."""
    by_kind = ((metric, "by kind", table.by_kind(found, OURS, metric)) for metric in table.METRICS)
    by_snr = (
        (metric, "by S/N, mean over kinds", table.by_snr(found, OURS, metric)) for metric in table.METRICS
    )
    parts = [
        f"{args.num_train} training spectra, {args.num_latent} latents, {args.passes} passes of networks; "
        f"{args.num_test} test spectra, {args.anomaly_fraction:.0%} anomalous; "
        f"average precision at a prevalence of 1 %; mean over kinds ± 95 % interval over seeds, of the shipped over test spectra (bootstrap).",
        f"## Ranked by `{OURS}`\n\n{table.overview(found, TITLES, OURS)}",
        *(f"## Ranked by plain {name}\n\n{table.overview(found, TITLES, name)}" for name in PLAIN),
        *(f"## {metric} {what}, `{OURS}`\n\n{text}" for metric, what, text in (*by_kind, *by_snr)),
        f"## Who sees a wrong redshift? AUROC by score\n\n{table.one_kind(found, 'wrong_redshift', 'AUROC')}",
        *_goal(found),
        "CPU seconds of training: "
        + ", ".join(f"{name} {value:.0f}" for name, value in _cost(found).items()),
    ]
    return "\n\n".join(parts)


def report_by_snr(found: Found) -> str:
    """Each metric by kind and S/N, methods beside each other."""
    return "\n\n".join(
        f"## {metric} by kind and S/N, `{OURS}`\n\n{table.by_kind_and_snr(found, OURS, metric)}"
        for metric in table.METRICS
    )


def _goal(found: Found) -> list[str]:
    """How many times the best simple baseline each method finds; nothing where there is no such baseline."""
    simple = [name for name, method in METHODS.items() if method.is_simple and name in found]
    if not simple:
        return []
    plain, ours = (table.best_simple(found, simple, scores) for scores in (PLAIN, (OURS,)))
    return [
        f"## Goal\n\nBest simple baseline: {_against(found, plain, f'plain {plain[1]}')}",
        f"## The harder comparison\n\nBest simple method with our scores: {_against(found, ours, f'`{OURS}`')}",
    ]


def _against(found: Found, best: tuple[str, str, dict[int, float]], by: str) -> str:
    name, _, recall = best
    return (
        f"{TITLES[name]} by {by}, {table.HEADLINE} {table.cell(list(recall.values()))}. `{OURS}` of each method against "
        f"it, seed by seed; a shipped checkpoint against the mean:\n\n{table.ratios(found, recall, OURS)}"
    )


def _cost(found: Found) -> dict[str, float]:
    """Mean CPU seconds of training."""
    return {name: np.mean([kept.get("train_cpu_s", 0.0) for kept in s.values()]) for name, s in found.items()}
