"""Every registered model, made small, with plausible rows to learn from: for tests that hold for all of them."""

from functools import cache

import numpy as np
import torch
from pydantic import TypeAdapter

from models import MODELS
from models.spec import ModelSpec
from tests.blobs import CONDITIONS, make_blobs
from tests.cutouts import make_cutouts
from tests.disks import make_disks

CPU = torch.device("cpu")
IMAGES = {
    "size": 16,
    "width": 8,
    "max_width": 16,
    "stretched_mean": (1.0,),
    "stretched_std": (1.2,),
    "ema_decay": 0.9,
}
TOLD = {
    "conditions": tuple(CONDITIONS), "condition_low": tuple(low for low, _ in CONDITIONS.values()),
    "condition_high": tuple(high for _, high in CONDITIONS.values()),
}  # fmt: skip
SMALL = {
    "spectral_vae": {
        "num_pixels": 200, "num_latent": 2, "hidden": (32, 16), "wave_max_angstrom": 3759.2, "window_pixels": 64,
        "precision": "float32", "scoring": {"num_reference": 100, "num_neighbours": 5, "min_class_rows": 20},
    },
    "redshift_vae": {
        "num_pixels": 200, "num_latent": 2, "hidden": (32, 16), "channels": (4, 6, 8), "wave_max_angstrom": 3759.2,
        "rest_wave_min_angstrom": 2400.0, "rest_wave_max_angstrom": 3800.0, "num_rest_pixels": 600,
        "precision": "float32", "learning_rate": 0.003,
        "scoring": {"num_reference": 100, "num_neighbours": 5, "min_class_rows": 20},
    },
    "band_gan": {
        "size": 24, "width": 8, "levels": 2, "discriminator_width": 8, "precision": "float32", "learning_rate": 0.003,
        "scoring": {
            "num_reference": 100, "num_neighbours": 5, "min_class_rows": 20, "num_latent": 3,
            "aperture_radius_arcsec": 0.25, "write_predicted": True,
        },
    },
    "unet_vae": {
        "size": 24, "width": 8, "levels": 2, "num_latent": 8, "skip_levels": (0, 1), "precision": "float32",
        "learning_rate": 0.003,
    },
    "disk_classifier": {
        "size": 24, "network_pixels": 17, "rotations": 4, "fields": (2, 3, 4), "halvings": (1, 2), "dropout": 0.1,
        "aperture_radius_arcsec": 0.25,
    },
    "restorer": {
        "size": 16, "num_channels": 1, "width": 8, "blocks": 1, "psf_size_px": 9, "noise_sigma": 0.3, "scale": 5.0,
        "learning_rate": 0.003, "augment": False,
    },
    "image_vae": IMAGES | TOLD | {"num_latent": 8, "learning_rate": 0.005},
    "image_alae": IMAGES | {"num_latent": 16, "mapping_layers": 2, "judge_layers": 2},
    "image_stylegan": IMAGES | TOLD | {"num_latent": 16, "mapping_layers": 2, "noise_inputs": True},
    "image_flow": IMAGES | TOLD | {"width": 16, "max_width": 32, "halvings": 1, "attention_pixels": 4, "steps": 4},
}  # fmt: skip
"""Settings that make each model small; a new model adds its own."""

SPECTYPES = np.array(["GALAXY", "QSO", "STAR", None], object)


def spectra(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Prepared spectra: smooth continua with noise and unusable pixels."""
    random = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {}
    for column in spec.reads(config):
        shape = (rows, column.length) if column.length else (rows,)
        if column.dtype == "string":
            batch[column.name] = SPECTYPES[random.integers(0, len(SPECTYPES), rows)]
        elif column.name == "z":
            batch[column.name] = random.uniform(0, 0.5, rows)
        elif column.name == "ivar":
            batch[column.name] = (100 * (random.random(shape) > 0.1)).astype(column.dtype)
        else:
            steps = random.normal(0, 0.1, shape).cumsum(-1) / np.sqrt(shape[-1]) * 3
            batch[column.name] = (1 + steps + random.normal(0, 0.1, shape)).astype(column.dtype)
    batch["flux"] = np.where(batch["ivar"] > 0, batch["flux"], 0).astype(np.float32)
    batch["z"][random.random(rows) < 0.1] = np.nan
    return batch | {"targetid": np.arange(rows) + 10**15}


def images(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Cutouts of simple galaxies in six bands."""
    return make_cutouts(rows, config.size, seed)


def pairs(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Cutouts as above, and their light."""
    light = make_cutouts(rows, config.size, seed, noise=1e-6)["science"]
    return make_cutouts(rows, config.size, seed) | {"clean": light}


def labelled_images(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Cutouts of toy disks and round galaxies, some of unknown class."""
    return make_disks(rows, config.size, seed, unknown=0.1)


def plain_images(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Images of simple galaxies."""
    return make_blobs(rows, config.size, seed)


def blobs(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Images of simple galaxies, with the conditions that a generator is told."""
    return make_blobs(rows, config.size, seed, config.conditions)


GENERATORS = ("image_vae", "image_alae", "image_stylegan", "image_flow")

ROWS_OF = {
    "spectral_vae": spectra,
    "redshift_vae": spectra,
    "band_gan": images,
    "unet_vae": pairs,
    "disk_classifier": labelled_images,
    "restorer": plain_images,
    **dict.fromkeys(GENERATORS, blobs),
}
"""What makes plausible rows of the columns that each model learns from; a new model adds its own."""

NO_PIXEL = {"science": 0, "error": 0, "mask": True}
UNUSABLE = dict.fromkeys(ROWS_OF, NO_PIXEL) | {
    "spectral_vae": {"flux": 0, "ivar": 0},
    "redshift_vae": {"flux": 0, "ivar": 0},
    **{name: {"image": np.nan} for name in ("restorer", *GENERATORS)},
}
"""Values of pixels that cannot be used."""

VERDICT = {
    "spectral_vae": "anomaly_score",
    "redshift_vae": "anomaly_score",
    "band_gan": "anomaly_score",
    "unet_vae": "denoised_fraction",
    "disk_classifier": "prob_disk",
    "restorer": "restoration_residual",
    **dict.fromkeys(GENERATORS, "reconstruction_error"),
    "image_stylegan": "discriminator_logit",
}
"""A column that is not a number where no pixel can be used."""

RECONSTRUCTED_PIXELS = {
    "spectral_vae": 200,
    "redshift_vae": 200,
    "band_gan": 3 * 24 * 24,
    "unet_vae": 6 * 24 * 24,
}


def small_config(spec: ModelSpec):
    """Return the settings that make the model small."""
    return TypeAdapter(spec.config).validate_python(SMALL[spec.name])


def make_batch(spec: ModelSpec, config, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random but plausible rows of the columns that the model learns from."""
    batch = ROWS_OF[spec.name](spec, config, rows, seed)
    assert list(batch) == [column.name for column in spec.learns_from(config)]
    return batch


def started(spec: ModelSpec, config, total_steps: int = 100, seed: int = 0):
    """Return a task that may take steps."""
    task = spec.task(config, seed)
    task.start(CPU, total_steps)
    return task


@cache
def predictor(name: str):
    """Predictor, module and fitted arrays of a small model that has learned nothing; once for all tests."""
    spec, config = MODELS[name], small_config(MODELS[name])
    torch.manual_seed(0)
    module = spec.build(config)
    fitted = spec.fit(config, module, *([make_batch(spec, config, 80, seed)] for seed in (1, 2)))
    return spec.predictor(config, module, fitted, CPU), module, fitted
