"""Draw one track through the latent space of a checkpoint, as the report does, without a release.

    python -m benchmarks.track_figure [--property h_alpha_ew] [--num-spectra 4096] [--targets QSO] [--min-snr 8]

Spectra are simulated and scored in memory; measuring, path, decoding and drawing are those of `jobs report`
(`jobs/tracks.py`, `catalogs/track_charts.py`). How well the property can be read off is printed.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch

from benchmarks.training_spectra import Augment, Recipe, chunks
from catalogs.figures import style, to_svg
from catalogs.latent_map import principal_components
from catalogs.latent_space import Evidence, Track
from catalogs.spectral_properties import PROPERTIES
from catalogs.track_charts import track_figure
from engine.checkpoint import load
from engine.infer import open_model
from engine.spectra.normalise import signal_to_noise
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from engine.synthetic.population import TARGETS, SimulateConfig
from jobs.gallery import Reader
from jobs.tracks import Sample, follow
from models.scoring.spectral import Scorer
from models.spectral_vae import SPEC

CHUNK_ROWS, SEED = 512, 8
NUM_POINTS = 200
"""Points of the map: each is a mark in the SVG."""


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="checkpoints/spectral_vae_rest")
    parser.add_argument("--property", choices=[one.name for one in PROPERTIES], default="h_alpha_ew")
    parser.add_argument("--num-spectra", type=int, default=4096)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS, help="what is simulated")
    parser.add_argument("--min-snr", type=float, default=0.0, help="median signal-to-noise of a pixel")
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="SVG; without it only what is found is printed")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    checkpoint = load(args.checkpoint, Storage(), SPEC.name, SPEC.version)
    config, module = open_model(SPEC, checkpoint, args.checkpoint)
    prepare = SpectrumPrep.model_validate(checkpoint.prepare)
    sample = encoded(args, Scorer(config, module, torch.device("cpu")), prepare)
    sample = sample.only(sample.snr >= args.min_snr)
    # What decoding needs of the reader of a release.
    reader = cast(Reader, SimpleNamespace(spec=SPEC, settings=config, module=module, prepare=prepare))
    found = Evidence()
    follow(next(one for one in PROPERTIES if one.name == args.property), sample, reader, found)
    for name, one in found.regressions.items():
        print(
            f"{name}: {one.num_rows} objects, R2 {one.linear:.2f} (plane), {one.neighbours:.2f} (neighbours)"
        )
    if not found.tracks:
        raise SystemExit(f"{found.notes[0]} Raise --num-spectra.")
    (track,) = found.tracks
    print(f"track along {track.title}: {track.num_objects} objects")
    if args.figure:
        draw(sample, track, args.figure)


def draw(sample: Sample, track: Track, path: Path) -> None:
    """Draw the track over the first two principal components of the sample."""
    points, steps, _ = principal_components(sample.latent, track.latent)
    with style():
        path.write_text(rounded(to_svg(track_figure(track, points[:NUM_POINTS], steps))) + "\n")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def rounded(svg: str) -> str:
    """Round coordinates to a tenth of a point: spectra have thousands of them."""
    return re.sub(r' (?:d|x|y)="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), svg)


def mix(targets: Sequence[str]) -> SimulateConfig:
    """Return the survey's mix with some of its classes only."""
    absent = {f"{target.lower()}_fraction": 0.0 for target in TARGETS if target not in targets}
    return replace(SimulateConfig(), **absent)


def encoded(args: argparse.Namespace, scorer: Scorer, prepare: SpectrumPrep) -> Sample:
    """Make spectra in the model's frame, with their places in latent space."""
    recipe = Recipe(CHUNK_ROWS, mix(args.targets), prepare, Augment(), "")
    parts = []
    for batch in chunks(recipe, SEED, 0, -(-args.num_spectra // CHUNK_ROWS), args.num_workers):
        shift = 1 + (batch["z"] if prepare.frame == "observed" else np.zeros(len(batch["z"])))
        parts.append((
            prepare.wave / shift[:, None], batch["flux"], batch["ivar"], scorer.latent_mean(batch["flux"], batch["ivar"]),
            batch["z"], signal_to_noise(batch["flux"], batch["ivar"]), batch["spectype"].astype(str),
        ))  # fmt: skip
    return Sample(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


if __name__ == "__main__":
    main()
