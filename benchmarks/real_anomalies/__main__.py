"""Ranks of real spectra by models that have seen synthetic ones only.

    python -m benchmarks.real_anomalies --data FOLDER --bases TEMPLATES

FOLDER holds SDSS or BOSS spec-*.fits (here 94 of SQUEzE's tests and 17 others), TEMPLATES redrock's templates. The real
spectra are the normal ones, and a hand-made list of oddities is made of some of them by stated transformations
(`oddities.py`). Judges: the shipped checkpoints; small models of `benchmarks.ablation` trained on parametric spectra only,
or on spectra drawn from the real bases only; and principal components of the real spectra themselves, five-fold.
A few minutes of one core; without the data it says so and ends with 2.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.ablation.table import markdown, write_below
from benchmarks.real_anomalies.judges import Judge, Training, Verdicts, real_components, shipped, trained_on
from benchmarks.real_anomalies.oddities import ODDITIES
from benchmarks.real_anomalies.ranks import (
    Real,
    found_at_ten,
    paired_wins,
    separation,
    separation_of_sources,
    too_many,
)
from benchmarks.real_anomalies.spectra import as_sample, make_oddities, read_real

TOP = 8
WHOLE = (
    "shipped",
    "shipped, rest frame",
    "VAE, parametric",
    "VAE, bases",
    "redshift VAE, bases",
    "PCA of the real",
)
DETAILED = (
    "shipped, reduced_chi2",
    "shipped, residual_log_density",
    "shipped, rest frame, reduced_chi2",
    "shipped, rest frame, worst_window_sigma",
    "shipped, rest frame, coherent_sigma",
)
"""Ranks, and the single scores that are shown by transformation."""


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with spec-*.fits, at any depth")
    parser.add_argument("--bases", required=True, help="folder with rrtemplate-*.fits")
    parser.add_argument("--num-train", type=int, default=12_288)
    parser.add_argument("--num-held-out", type=int, default=4_096)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--judges", nargs="+", default=[])
    parser.add_argument("--page", type=Path, help="put the tables below the mark of this page too")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    args = parse(words)
    missing = [str(p) for p in (args.data, Path(args.bases)) if not p.is_dir()]
    if missing:
        print(f"skipped: {', '.join(missing)} is not here; it holds the real data", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    spectra = read_real(args.data)
    odd = make_oddities(spectra)
    sample = as_sample([*spectra, *(one for _, one in odd)], [""] * len(spectra) + [kind for kind, _ in odd])
    names = args.judges or list(judges(args))
    verdicts = {
        ", ".join(filter(None, (name, part))): verdict
        for name in names
        for part, verdict in judges(args)[name](sample).items()
    }
    text = report(Real(sample.columns), verdicts)
    print(text)
    if args.page:
        write_below(args.page, text)
    return 0


def judges(args: argparse.Namespace) -> dict[str, Judge]:
    """All judges by name."""

    def training(fraction: float) -> Training:
        return Training(args.bases, fraction, args.num_train, args.num_held_out, args.passes)

    return {
        "shipped": shipped("checkpoints/spectral_vae_desi", training(0.4)),
        "shipped, rest frame": shipped("checkpoints/spectral_vae_rest", training(0.4)),
        "VAE, parametric": trained_on("vae_observed", training(0.0)),
        "VAE, bases": trained_on("vae_observed", training(1.0)),
        "redshift VAE, bases": trained_on("redshift_vae", training(1.0)),
        "PCA of the real": real_components,
    }


def report(real: Real, verdicts: dict[str, Verdicts]) -> str:
    """All tables."""
    return "\n\n".join([
        f"{real.is_normal.sum()} real spectra, {(~real.is_normal).sum()} oddities made of {real.num_sources} of them",
        "## Do real spectra pass for normal?\n\nPart of real spectra above what 99 % of synthetic ones stay below; "
        "0.01 where the calibration holds.\n\n" + false_alarms(real, verdicts),
        "## Are oddities ranked above real spectra?\n\n" + overview(real, verdicts),
        "## By transformation\n\nAUROC against real spectra of the same class / oddities above their own source.\n\n"
        + by_transformation(real, verdicts),
        f"## The {TOP} real spectra that rank highest\n\n" + highest(real, verdicts),
        "## The list\n\n" + the_list(),
    ])  # fmt: skip


def false_alarms(real: Real, verdicts: dict[str, Verdicts]) -> str:
    """Part of real spectra beyond the synthetic limit, by class."""
    classes = ("GALAXY", "QSO", "STAR")
    rows = [
        [name, *(f"{too_many(real, v, c):.2f}" for c in (None, *classes))]
        for name, v in verdicts.items()
        if np.isfinite(v.limit)
    ]
    counts = [f"{c} ({int((real.is_normal & (real.spectype == c)).sum())})" for c in classes]
    return markdown(["judge", "all", *counts], rows)


def overview(real: Real, verdicts: dict[str, Verdicts]) -> str:
    """One line a judge."""
    rows = []
    for name, v in verdicts.items():
        wins, num = paired_wins(real, v.score, None)
        shares = (
            separation(real, v.score, None),
            separation_of_sources(real, v.score),
            found_at_ten(real, v.score),
        )
        rows.append([name, *(f"{share:.2f}" for share in shares), f"{wins}/{num}"])
    head = ["judge", "AUROC", "AUROC of the unaltered sources", "recall at 10 %", "above their own source"]
    return markdown(head, rows)


def by_transformation(real: Real, verdicts: dict[str, Verdicts]) -> str:
    """Print transformations down, judges across."""
    rows = []
    judged = {name: v for name, v in verdicts.items() if name in (*WHOLE, *DETAILED)}
    for kind in ODDITIES:
        cells = []
        for v in judged.values():
            wins, num = paired_wins(real, v.score, kind)
            cells.append(f"{separation(real, v.score, kind):.2f} / {wins} of {num}")
        rows.append([kind, *cells])
    return markdown(["", *judged], rows)


def highest(real: Real, verdicts: dict[str, Verdicts]) -> str:
    """Which real spectra each judge finds strangest."""
    rows = []
    for name in WHOLE:
        if (v := verdicts.get(name)) is None:
            continue
        order = [i for i in np.argsort(-np.nan_to_num(v.score, nan=-np.inf)) if real.is_normal[i]][:TOP]
        rows.append(
            [name, ", ".join(f"{real.name[i]} ({real.spectype[i]}, z {real.z[i]:.2f})" for i in order)]
        )
    return markdown(["judge", "spectra"], rows)


def the_list() -> str:
    """Print transformations with sources and reasons."""
    rows = []
    for name, oddity in ODDITIES.items():
        sources = ", ".join(" + ".join(s) if isinstance(s, tuple) else s for s in oddity.sources)
        rows.append([name, oddity.why, sources])
    return markdown(["transformation", "why it is odd", "sources"], rows)


if __name__ == "__main__":
    sys.exit(main())
