"""Do latents hold the width of broad lines? Against the width that was drawn, not the one that can be measured.

    python -m benchmarks.broad_lines [--num-spectra 2048] [--max-redshift 0.9]

The width of H beta that reports and tracks measure is taken between 4740 and 4945 Angstrom, which cuts the wings of lines
that are 11,000 km/s wide. The simulation knows the FWHM of each quasar: R2 of both on the latents of a checkpoint, for
quasars of normal spectra with H beta in view (--max-redshift: beyond 0.9 it is not), above several S/N.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.ablation.table import markdown
from benchmarks.track_figure import mix
from benchmarks.training_spectra import Augment, augment
from catalogs.latent_space import regression
from engine.checkpoint import load
from engine.infer import open_model
from engine.spectra.coadd import merge_arms
from engine.spectra.measure import BROAD_H_BETA, line_width
from engine.spectra.normalise import signal_to_noise
from engine.spectra.prepare import SpectrumPrep, prepare
from engine.storage import Storage
from engine.synthetic import noise, population, qsos
from engine.synthetic.simulate import brightness, render_qsos
from models.scoring.spectral import Scorer
from models.spectral_vae import SPEC

CHUNK_ROWS, SEED = 256, 8
MIN_SNR = (2.0, 8.0)


class Quasars(NamedTuple):
    """Widths of H beta [km/s] as drawn (FWHM) and as measured (16 to 84 % of the flux, NaN where it cannot be), S/N, [N], latents [N, D]."""

    drawn: np.ndarray
    measured: np.ndarray
    snr: np.ndarray
    latent: np.ndarray


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="checkpoints/spectral_vae_rest")
    parser.add_argument("--num-spectra", type=int, default=2048)
    parser.add_argument("--max-redshift", type=float, default=0.9)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    checkpoint = load(args.checkpoint, Storage(), SPEC.name, SPEC.version)
    config, module = open_model(SPEC, checkpoint, args.checkpoint)
    scorer = Scorer(config, module, torch.device("cpu"))
    parts = encoded(args, scorer, SpectrumPrep.model_validate(checkpoint.prepare))
    print(report(Quasars(*map(np.concatenate, zip(*parts, strict=True)))))


def encoded(args: argparse.Namespace, scorer: Scorer, how: SpectrumPrep) -> Iterator[Quasars]:
    """Draw quasars, observe and encode them, chunk by chunk."""
    for index in range(-(-args.num_spectra // CHUNK_ROWS)):
        rng = np.random.default_rng((SEED, index))
        objects = near_quasars(CHUNK_ROWS, args.max_redshift, rng)
        params = qsos.draw(rng, objects.z, objects.rmag)
        light = render_qsos(params, objects.z, rng)
        light *= brightness(light, objects.rmag)
        arms = noise.observe(light, objects.observing, rng)
        flux, ivar = merge_arms(arms.flux, arms.ivar, arms.mask)
        augment(flux, ivar, Augment(), rng)
        ready = prepare(flux, ivar, objects.z_reported, how).spectra
        shift = 1 + (objects.z_reported if how.frame == "observed" else np.zeros(len(objects.z)))
        width = line_width(how.wave / shift[:, None], ready.flux, ready.ivar, BROAD_H_BETA)
        snr = signal_to_noise(ready.flux, ready.ivar)
        yield Quasars(params.fwhm_kms, width, snr, scorer.latent_mean(ready.flux, ready.ivar))


def near_quasars(num: int, max_redshift: float, rng: np.random.Generator) -> population.Population:
    """Draw quasars below a redshift, where nothing is rendered of the others."""
    parts: list[population.Population] = []
    while sum(len(part.z) for part in parts) < num:
        drawn = population.draw(num, mix(("QSO",)), rng)
        parts.append(drawn.take(drawn.z < max_redshift))
    return population.concatenate(parts).take(np.arange(num))


def report(found: Quasars) -> str:
    """Return a table: R2 of both widths on the latents, of the same quasars."""
    rows = []
    for low in MIN_SNR:
        kept = (found.snr >= low) & np.isfinite(found.measured)
        for name, width in (("drawn", found.drawn), ("measured", found.measured)):
            fitted = regression(found.latent[kept], width[kept])
            cells = (
                (fitted.num_rows, fitted.linear, fitted.neighbours)
                if fitted
                else (int(kept.sum()), np.nan, np.nan)
            )
            rows.append([f"{low:g}", name, str(cells[0]), *(f"{value:.2f}" for value in cells[1:])])
    both = np.isfinite(found.measured) & (found.snr >= MIN_SNR[-1])
    share = np.corrcoef(found.drawn[both], found.measured[both])[0, 1] ** 2 if both.sum() > 2 else np.nan
    table = markdown(["S/N above", "width of H beta", "quasars", "R2, plane", "R2, neighbours"], rows)
    return f"{table}\n\nsquared correlation of both widths above S/N {MIN_SNR[-1]:g}: {share:.2f}"


if __name__ == "__main__":
    main()
