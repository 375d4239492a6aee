"""How well images are cleaned, on synthetic NIRCam cutouts with contaminants, against S/N.

    python -m benchmarks.denoising [--steps N] [--json FILE]
    python -m benchmarks.denoising --checkpoint checkpoints/unet_vae_nircam [--steps N]

The second line measures a trained denoiser beside the others; with `--steps 0` it alone.

Single galaxies get 1 to 3 contaminants and noise; three networks of the small preset learn from the same
batches: a plain U-Net without latent, the U-Net VAE with limited skips, and the one with full skips. Each row
of the table is a median over test images, all bands together for PSNR and SSIM, F444W for the flux within 0.3
arcsec, the brightest band for the half-light radius. Flux and radius follow for disks and for other galaxies apart. With
`--statmorph N` there are quantities of statmorph too, of the brightest band of N images: measured less that of the
light without noise, median and scatter. Then what is made of pure noise and of
neighbours around an empty middle, what the latents hold, each of them, and what it costs to swap them. Wiener's filter (scipy)
and wavelets (scikit-image with PyWavelets, where that is installed) stand for the classical methods. Test seeds are
used for these tables and for nothing else.
"""

import argparse
import importlib.util
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.signal import wiener
from skimage.metrics import structural_similarity

from benchmarks import denoised_shapes, false_light
from benchmarks.false_light import Clean, from_neighbours, from_noise
from benchmarks.latents import latent_report, latent_use
from benchmarks.training_cutouts import CLASSIFIED, Batch, Pool
from engine.checkpoint import load
from engine.images.bands import BANDS
from engine.infer import open_model
from engine.storage import Storage
from engine.synthetic.contaminate.config import ContaminateConfig
from engine.synthetic.contaminate.optics import nircam_optics
from engine.synthetic.contaminate.simulate import Contaminator
from engine.synthetic.contaminate.target import half_light_snr, measure_target
from engine.synthetic.field.config import FieldConfig
from engine.synthetic.field.cutouts import CHUNK
from models.scoring.aperture import aperture_weights
from models.scoring.denoising import flux_ratio, psnr
from models.unet_vae import SPEC, UNetVAETask
from models.unet_vae_config import PRESETS, UNetVAEConfig

SEED_TRAINING, SEED_TEST = 2001, 90_212
SNR_EDGES = (3.0, 10.0, 30.0, 100.0)
WIENER_PX = 5
CPU = torch.device("cpu")
HAS_WAVELETS = importlib.util.find_spec("pywt") is not None
POPULATIONS = {"classified": CLASSIFIED, "sky": {"anomaly_fraction": 0.0}}
CLASSES = {"disk": ("disk",), "not a disk": ("spheroid", "irregular")}
"""What the truth calls them; galaxies between disk and spheroid are in neither."""


def main() -> None:
    args = arguments().parse_args()
    torch.set_num_threads(args.num_threads)
    tasks, seconds = train(args) if args.steps else ({}, {})
    test = list(batches(args, SEED_TEST, args.num_test, np.arange(-(-args.num_test // CHUNK))))
    methods = {"noisy": lambda batch: images(args, batch, "science")} | classical(args)
    methods |= {
        name: cleaner(args, configs(args)[name], task.modules["unet_vae"]) for name, task in tasks.items()
    }
    latents = {name: latent_use(task, configs(args)[name], test) for name, task in tasks.items()}
    if args.checkpoint:
        config, module = open_model(SPEC, load(args.checkpoint, Storage()), args.checkpoint)
        methods["checkpoint"] = cleaner(args, config, module)
        task = UNetVAETask(config, 0)
        task.modules["unet_vae"] = module
        latents["checkpoint"] = latent_use(task, config, test)
    values = {name: measures(args, clean, test) for name, clean in methods.items()}
    table = {name: by_snr(one) for name, one in values.items()}
    classes = {name: by_class(one, test) for name, one in values.items()}
    noise = {name: from_noise(clean, args.size, SEED_TEST) for name, clean in methods.items()}
    around = {name: from_neighbours(clean, args.size, SEED_TEST) for name, clean in methods.items()}
    shapes = shape_table(args, methods, test) if args.statmorph else {}
    report(table, seconds)
    report_classes(classes)
    false_light.report(noise, around)
    latent_report(latents)
    denoised_shapes.report(shapes)
    if args.json:
        told = {"table": table, "classes": classes, "noise": noise, "neighbours": around}
        told |= {"latents": latents, "statmorph": shapes}
        Path(args.json).write_text(json.dumps(told, indent=1) + "\n")


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-cutouts", type=int, default=1024, help="distinct galaxies to train on")
    parser.add_argument("--num-test", type=int, default=256)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--checkpoint", default="", help="of a trained U-Net VAE, to measure as well")
    parser.add_argument("--population", choices=POPULATIONS, default="classified",
                        help="galaxies as the classifier learns from, or as in the sky: hardly a spheroid")  # fmt: skip
    parser.add_argument(
        "--statmorph", type=int, default=0, help="images to measure, about 0.3 s each and method"
    )
    parser.add_argument("--pool", type=Path, default=Path("build/cutouts"))
    parser.add_argument("--json", default="", help="write the numbers here too")
    return parser


def configs(args: argparse.Namespace) -> dict[str, UNetVAEConfig]:
    """Return the networks by name."""
    small = replace(PRESETS["small"], size=args.size, learning_rate=args.learning_rate)
    return {
        "plain U-Net": replace(small, num_latent=0, skip_gate="full"),
        "U-Net VAE": small,
        "VAE, full skips": replace(small, skip_gate="full"),
    }


def train(args: argparse.Namespace) -> tuple[dict[str, UNetVAETask], dict[str, float]]:
    """Train all networks on the same batches; return them and the seconds that each took, and the data."""
    tasks = {name: UNetVAETask(config, 1) for name, config in configs(args).items()}
    seconds = dict.fromkeys(("data", *tasks), 0.0)
    for task in tasks.values():
        task.start(CPU, args.steps)
    num_chunks = -(-args.num_cutouts // CHUNK)
    passes = -(-args.steps * args.batch_rows // (num_chunks * CHUNK))
    order = np.concatenate([np.random.default_rng(n).permutation(num_chunks) for n in range(passes)])
    began = time.perf_counter()
    for step, batch in enumerate(
        itertools.islice(batches(args, SEED_TRAINING, args.num_cutouts, order), args.steps)
    ):
        seconds["data"] += time.perf_counter() - began
        for name, task in tasks.items():
            began = time.perf_counter()
            metrics = task.step(batch, step)
            seconds[name] += time.perf_counter() - began
            if step % 50 == 0:
                print(
                    f"{step:5d} {name:16}" + "".join(f"  {k} {v:.4g}" for k, v in metrics.items()), flush=True
                )
        began = time.perf_counter()
    return tasks, seconds


def batches(args: argparse.Namespace, seed: int, num_cutouts: int, order: np.ndarray) -> Iterator[Batch]:
    """Contaminated galaxies without neighbours; the n-th time that a chunk comes is its n-th realisation."""
    # Almost no neighbours and no stars: the light without noise is that of the target alone.
    field = FieldConfig(seed=seed, density_factor=1e-6, star_density=0.0, **POPULATIONS[args.population])
    pool = Pool(args.pool / f"{args.population}{seed}-{args.size}", field, args.size, 26.0)
    pool.make(-(-num_cutouts // CHUNK), args.num_threads)
    contaminate = Contaminator(
        ContaminateConfig(seed=seed, snr=(SNR_EDGES[0], SNR_EDGES[-1])), nircam_optics()
    )
    seen = np.zeros(int(order.max()) + 1, int)
    for number in order.tolist():
        batch, light = pool.read(number)
        whole = contaminated(
            args, contaminate, batch, light, np.arange(CHUNK) + CHUNK * number, int(seen[number])
        )
        seen[number] += 1
        for start in range(0, CHUNK, args.batch_rows):
            yield {name: values[start : start + args.batch_rows] for name, values in whole.items()}


def contaminated(
    args: argparse.Namespace, contaminate: Contaminator, batch: Batch, light: np.ndarray, keys: np.ndarray,
    epoch: int,
) -> Batch:  # fmt: skip
    """Columns that the model reads and trains on."""
    shape = (len(light), len(BANDS), args.size, args.size)
    out = contaminate(
        light.reshape(shape), batch["error"].reshape(shape), keys, epoch, None, batch["dx"], batch["dy"]
    )
    flat = {
        name: getattr(out, name).reshape(len(light), -1) for name in ("science", "error", "mask", "clean")
    }
    return flat | {name: batch[name] for name in ("dx", "dy", "pixel_scale", "morphology")}


def images(args: argparse.Namespace, batch: Batch, name: str) -> np.ndarray:
    """Return a column as [B, C, S, S]."""
    return batch[name].reshape(-1, len(BANDS), args.size, args.size)


def cleaner(args: argparse.Namespace, config: UNetVAEConfig, module: torch.nn.Module) -> Clean:
    """Images as a trained network cleans them."""
    predict = SPEC.predictor(config, module, {}, CPU)
    return lambda batch: predict(batch)["denoised"].reshape(-1, len(BANDS), args.size, args.size)


def classical(args: argparse.Namespace) -> dict[str, Clean]:
    """Return filters that are told of the noise, not of the contaminants."""

    def clean(one: Callable[[np.ndarray, np.ndarray], np.ndarray], batch: Batch) -> np.ndarray:
        pairs = zip(images(args, batch, "science"), images(args, batch, "error"), strict=True)
        planes = [[one(*band) for band in zip(*pair, strict=True)] for pair in pairs]
        return np.array(planes, np.float32)

    filters = {"Wiener 5 x 5": wiener_filtered} | ({"wavelets": wavelets} if HAS_WAVELETS else {})
    return {name: partial(clean, one) for name, one in filters.items()}


def wiener_filtered(science: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Local Wiener filter (Lim 1990, Eq. 9.26) with the median variance of the error map."""
    with np.errstate(divide="ignore", invalid="ignore"):
        out = wiener(science.astype(np.float64), WIENER_PX, float(np.median(error[error > 0]) ** 2))
    return np.nan_to_num(out)


def wavelets(science: np.ndarray, error: np.ndarray) -> np.ndarray:
    """BayesShrink (Chang, Yu & Vetterli 2000) with the median of the error map."""
    from skimage.restoration import denoise_wavelet

    return denoise_wavelet(science, sigma=float(np.median(error[error > 0])), method="BayesShrink")


def measures(args: argparse.Namespace, clean: Clean, test: list[Batch]) -> dict[str, np.ndarray]:
    """All measures of all images."""
    parts = [one_batch(args, clean(batch), batch) for batch in test]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def by_snr(values: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Medians of all measures for each bin of S/N that has images."""
    rows = {}
    for low, high in itertools.pairwise(SNR_EDGES):
        chosen = (values["snr"] >= low) & (values["snr"] < high)
        if not chosen.any():
            continue
        row = {name: float(np.nanmedian(v[chosen])) for name, v in values.items() if name != "snr"}
        row["flux_scatter"] = denoised_shapes.middle_and_scatter(values["flux"][chosen])[1]
        rows[f"{low:g}-{high:g}"] = row | {"images": int(chosen.sum())}
    return rows


def by_class(values: dict[str, np.ndarray], test: list[Batch]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the same of each class."""
    kind = np.concatenate([batch["morphology"] for batch in test])
    chosen = {name: np.isin(kind.astype(str), kinds) for name, kinds in CLASSES.items()}
    return {name: by_snr({k: v[rows] for k, v in values.items()}) for name, rows in chosen.items()}


def one_batch(args: argparse.Namespace, image: np.ndarray, batch: Batch) -> dict[str, np.ndarray]:
    """Measures of each image [B]."""
    truth, error, mask = (images(args, batch, name) for name in ("clean", "error", "mask"))
    seen, true = torch.tensor(image), torch.tensor(truth)
    dx, dy, scale = (torch.tensor(batch[name]) for name in ("dx", "dy", "pixel_scale"))
    weights = aperture_weights(args.size, dx, dy, 0.3 / scale)
    sizes, snr = sizes_and_snr(image, truth, error, batch)
    return {
        "snr": snr,
        "psnr": psnr(seen, true, torch.tensor(~mask)).nanmean(1).numpy(),
        "ssim": similarity(image, truth),
        "flux": flux_ratio(seen, true, weights)[:, -1].numpy() - 1,
        "size": sizes,
    }


def sizes_and_snr(
    image: np.ndarray, truth: np.ndarray, error: np.ndarray, batch: Batch
) -> tuple[np.ndarray, np.ndarray]:
    """Relative error of half-light radii in the target's brightest band, and the S/N of the target, [B]."""
    sizes, snr = [], []
    for row, (dx, dy) in enumerate(zip(batch["dx"].tolist(), batch["dy"].tolist(), strict=True)):
        target = measure_target(truth[row], error[row], dx, dy)
        band = slice(target.channel, target.channel + 1)
        found = measure_target(image[row, band], error[row, band], dx, dy)
        sizes.append(found.half_light_px / target.half_light_px - 1)
        snr.append(half_light_snr(truth[row], error[row], target))
    return np.array(sizes), np.array(snr)


def similarity(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """SSIM (Wang et al. 2004) of all bands [B], range = clean peak."""
    pairs = zip(image, truth, strict=True)
    return np.array(
        [structural_similarity(a, b, data_range=float(b.max()), channel_axis=0) for a, b in pairs]
    )


def shape_table(args: argparse.Namespace, methods: dict[str, Clean], test: list[Batch]) -> dict:
    """Return what statmorph says of the first images."""
    batch = {name: np.concatenate([b[name] for b in test])[: args.statmorph] for name in test[0]}
    return denoised_shapes.shape_table(methods, batch, args.size, SNR_EDGES)


def report_classes(table: dict[str, dict[str, dict[str, dict[str, float]]]]) -> None:
    """Print bias of flux and radius by class and S/N."""
    print(f"\n{'':16}{'':12}{'S/N':>8}{'images':>8}{'flux bias':>11}{'scatter':>9}{'r_half bias':>13}")
    for (method, classes), name in itertools.product(table.items(), CLASSES):
        for snr, row in classes[name].items():
            print(f"{method:16}{name:12}{snr:>8}{row['images']:8d}"
                  f"{row['flux']:+11.3f}{row['flux_scatter']:9.3f}{row['size']:+13.3f}")  # fmt: skip


def report(table: dict, seconds: dict[str, float]) -> None:
    """Print measures by S/N, and what they took."""
    print(
        f"\n{'':16}{'S/N':>8}{'images':>8}{'PSNR':>8}{'SSIM':>8}"
        f"{'flux bias':>11}{'scatter':>9}{'r_half bias':>13}"
    )
    for name, rows in table.items():
        for snr, row in rows.items():
            print(f"{name:16}{snr:>8}{row['images']:8d}{row['psnr']:8.2f}{row['ssim']:8.3f}"
                  f"{row['flux']:+11.3f}{row['flux_scatter']:9.3f}{row['size']:+13.3f}")  # fmt: skip
    print("\nseconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
