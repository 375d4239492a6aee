"""How well the published denoiser cleans real colour pictures: before, after, and a filter, in PSNR, SSIM and flux.

    python -m benchmarks.colour_denoising FOLDER [--size 128] [--passes 4] [--levels 4] [--width 8]

FOLDER holds folders of SDSS pictures (Galaxy Zoo), or pictures. They are contaminated as `jobs/configs/denoiser_colour.toml`
says. Two networks learn from the same: the published preset (cross entropy, full skips, no noise as input), smaller unless told,
and the same with limited skips: learned gates, some training images without them, free bits, a beta that grows. The middle of
each picture is taken, its pixels averaged until they are `--size`. A twelfth of the pictures, chosen by their names, is not learned
from and makes the table: medians of PSNR [dB, of the range of pictures], SSIM, and brightness within a quarter of the
side over the true one, with the 16th to 84th percentile. "Emptied" is what is left within that circle of pictures whose
galaxy was taken away, but whose contaminants were not, in the brightness of the galaxy. Then what the latents hold, and what it
costs to swap them. On one core a pass of a network over 1,280 pictures of 128 pixels takes about two minutes, of 64 half a minute.
"""

import argparse
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from skimage.metrics import structural_similarity

from benchmarks.denoising import wiener_filtered
from benchmarks.latents import latent_report, latent_use
from engine.config import load
from engine.schema import list_array, matrix, to_arrays
from engine.sources.galaxy_colour import ColourConfig, ColourSource
from engine.synthetic.contaminate.rows import SEEN, Realisations, RealisationsConfig
from jobs.config import JobConfig
from models.spec import Batch
from models.unet_vae import SPEC, UNetVAETask
from models.unet_vae_config import PRESETS, UNetVAEConfig

CONFIG = "jobs/configs/denoiser_colour.toml"
CPU = torch.device("cpu")
CHUNK = 32
TEST_SHARE = 1 / 12
LIMITS = ("skip_gate", "skip_dropout", "free_bits", "beta_warmup_fraction")
"""Settings that limit skips; taken from the default preset."""
RADIUS = 0.25
"""Of the circle in which brightness is compared [side]."""

Clean = Callable[[Batch], np.ndarray]
"""From a batch to pictures [B, 3, S, S]."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--crop", type=int, default=256, help="middle of a picture that is taken [pixel]")
    parser.add_argument(
        "--passes", type=int, default=4, help="realisations of each picture that are learned from"
    )
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--num-threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    if args.crop % args.size:
        parser.error(f"--size {args.size} must divide --crop {args.crop}: pixels are averaged")
    training, test = divided(pictures(args))
    made = realisations(args)
    print(f"{training.num_rows} pictures to learn from, {test.num_rows} to test", flush=True)
    tasks = {name: trained(args, config, made, training) for name, config in networks(args).items()}
    batches = [batch_of(made, test[start : start + CHUNK], 0) for start in range(0, test.num_rows, CHUNK)]
    emptied = realisations(args, empty_fraction=1.0)
    alone = [batch_of(emptied, test[start : start + CHUNK], 0) for start in range(0, test.num_rows, CHUNK)]
    methods: dict[str, Clean] = {"contaminated": seen, "Wiener 5 x 5": filtered}
    methods |= {name: cleaner(config, tasks[name]) for name, config in networks(args).items()}
    print(f"{'':14}{'PSNR':>24}{'SSIM':>24}{'brightness':>24}{'emptied':>26}")
    for name, clean in methods.items():
        print(f"{name:14}" + "".join(f"{spread(values):>25}" for values in measured(clean, batches, alone)))
    latent_report({name: latent_use(tasks[name], config, batches) for name, config in networks(args).items()})


def networks(args: argparse.Namespace) -> dict[str, UNetVAEConfig]:
    """Return the published preset at the size and depth that are asked for, and the same with limited skips."""
    published = replace(
        PRESETS["published"], size=args.size, levels=args.levels, width=args.width, num_latent=64,
        skip_levels=tuple(range(args.levels)), learning_rate=args.learning_rate,
    )  # fmt: skip
    limits = {name: getattr(UNetVAEConfig(), name) for name in LIMITS}
    return {"full skips": published, "limited skips": replace(published, **limits)}


def pictures(args: argparse.Namespace) -> pa.Table:
    """Read all pictures below a folder: `field`, `object_id`, and `image` from 0 to 1."""
    folders = sorted(path for path in args.folder.iterdir() if path.is_dir()) or [args.folder]
    parts = []
    for folder in folders:
        source = ColourSource(str(folder), config=ColourConfig(size=args.crop))
        for unit in source.plan():
            rows = source.read(unit).rows
            step = args.crop // args.size
            image = matrix(rows, "image").reshape(-1, 3, args.size, step, args.size, step).mean((3, 5))
            names = pa.array(
                [f"{folder.name}/{uri.rpartition('/')[2]}" for uri in rows["source_uri"].to_pylist()]
            )
            flat = list_array(image.reshape(len(image), -1).astype(np.float32))
            parts.append(pa.table({"field": names, "object_id": rows["source_row"], "image": flat}))
    return pa.concat_tables(parts)


def divided(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Divide pictures by their names: those to learn from in an order by chance, and those to test."""
    digests = [hashlib.sha256(name.encode()).digest() for name in table["field"].to_pylist()]
    share = np.array([int.from_bytes(digest[:4], "big") / 2**32 for digest in digests])
    order = np.argsort(share)
    is_test = share[order] < TEST_SHARE
    return table.take(order[~is_test]), table.take(order[is_test])


def realisations(args: argparse.Namespace, **settings: float) -> Realisations:
    """Contaminate pictures as the configuration says, but for `settings`; pixels are larger where they are averaged."""
    config = load(JobConfig, CONFIG, ()).contaminate
    assert config is not None
    step = args.crop // args.size
    settings["colour_pixel_arcsec"] = config.colour_pixel_arcsec * step
    settings["colour_fwhm_px"] = config.colour_fwhm_px / step
    return Realisations(RealisationsConfig.model_validate(config.model_dump() | settings))


def batch_of(made: Realisations, table: pa.Table, number: int) -> Batch:
    """Columns that the network reads, of one realisation."""
    scale = np.full(table.num_rows, made.config.colour_pixel_arcsec, np.float32)
    return to_arrays(made(table, number), [*SEEN, "dx", "dy"]) | {"pixel_scale": scale}


def trained(
    args: argparse.Namespace, config: UNetVAEConfig, made: Realisations, training: pa.Table
) -> UNetVAETask:
    """Train on fresh realisations of all pictures, pass after pass."""
    task, began = UNetVAETask(config, 1), time.perf_counter()
    steps = args.passes * (training.num_rows // CHUNK)
    task.start(CPU, steps)
    for step, batch in enumerate(training_batches(args, made, training)):
        metrics = task.step(batch, step)
        if step % 40 == 0 or step + 1 == steps:
            told = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            print(f"step {step} of {steps}, {time.perf_counter() - began:.0f} s  {told}", flush=True)
    return task


def training_batches(args: argparse.Namespace, made: Realisations, training: pa.Table) -> Iterator[Batch]:
    for number in range(args.passes):
        order = np.random.default_rng(number).permutation(training.num_rows)
        for start in range(0, training.num_rows - CHUNK + 1, CHUNK):
            yield batch_of(made, training.take(order[start : start + CHUNK]), number + 1)


def seen(batch: Batch) -> np.ndarray:
    """Give the pictures as they are."""
    return _square(batch["science"])


def filtered(batch: Batch) -> np.ndarray:
    """Wiener's filter, told of the noise and not of the contaminants."""
    pairs = zip(seen(batch), _square(batch["error"]), strict=True)
    return np.array(
        [[wiener_filtered(*band) for band in zip(*pair, strict=True)] for pair in pairs], np.float32
    )


def cleaner(config: UNetVAEConfig, task: UNetVAETask) -> Clean:
    """Return what a trained network does."""
    predict = SPEC.predictor(config, task.modules["unet_vae"].eval(), {}, CPU)
    return lambda batch: _square(predict(batch)["denoised"])


def _square(flat: np.ndarray) -> np.ndarray:
    size = round((flat.shape[1] / 3) ** 0.5)
    return flat.reshape(-1, 3, size, size)


def measured(clean: Clean, batches: list[Batch], alone: list[Batch]) -> list[np.ndarray]:
    """PSNR, SSIM, brightness over the true one, and what is left of emptied pictures; one value a picture."""
    found = [[], [], [], []]
    for batch, empty in zip(batches, alone, strict=True):
        true, mask = _square(batch["clean"]), ~_square(batch["mask"])
        light, cleaned = brightness(true), clean(batch)
        for made, wanted, usable in zip(cleaned, true, mask, strict=True):
            error = float(np.square(made - wanted)[usable].mean())
            found[0].append(-10 * np.log10(max(error, 1e-12)))
            found[1].append(
                structural_similarity(made * usable, wanted * usable, channel_axis=0, data_range=1.0)
            )
        found[2].extend(brightness(cleaned) / light)
        found[3].extend(brightness(clean(empty)) / light)
    return [np.array(values) for values in found]


def brightness(images: np.ndarray) -> np.ndarray:
    """Sum of all colours within `RADIUS` of the middle, [B]."""
    at = np.arange(images.shape[-1]) - images.shape[-1] // 2
    inside = np.hypot(at[:, None], at) <= RADIUS * images.shape[-1]
    return (images * inside).sum((1, 2, 3))


def spread(values: np.ndarray) -> str:
    """Format the median with the 16th to 84th percentile."""
    low, middle, high = np.nanpercentile(values, [16, 50, 84])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


if __name__ == "__main__":
    main()
