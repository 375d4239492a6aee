"""What the latent of a denoiser is used for: its KL, and what is lost with the latent of another object."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.training_cutouts import Batch
from models.scoring.cutouts import cutouts
from models.scoring.denoising import psnr
from models.unet_vae import UNetVAETask
from models.unet_vae_config import UNetVAEConfig
from models.unet_vae_losses import latent_kl
from models.unet_vae_networks import Output, UNetVAE

CPU = torch.device("cpu")
NAMES = (
    "kl", "kl_latent_min", "kl_latent_median", "kl_latent_max", "active_latents", "reconstruction", "psnr",
)  # fmt: skip
PER_LINE = 16
"""Latents in a line."""


def latent_use(task: UNetVAETask, config: UNetVAEConfig, test: list[Batch]) -> dict[str, Any]:
    """KL [nat an image], active latents and PSNR on the test images, `swap_db` that swapped latents cost [dB].

    `kl_latents` is the KL of each latent [nat], mean over images.
    """
    found = [task.evaluate(batch) for batch in test]
    use: dict[str, Any] = {
        name: float(np.mean([m[name] for m in found])) for name in NAMES if name in found[0]
    }
    network = task.modules["unet_vae"]
    if not config.num_latent or not isinstance(network, UNetVAE):
        return use
    each = np.concatenate([kl_of_each(config, network, batch) for batch in test]).mean(0)
    swapped = float(np.nanmean([swap_loss(config, network, batch) for batch in test]))
    return use | {"kl_latents": each.tolist(), "swap_db": swapped}


def kl_of_each(config: UNetVAEConfig, network: UNetVAE, batch: Batch) -> np.ndarray:
    """KL from the prior of each latent of each image, [B, D] nat."""
    images = cutouts(batch, config.size, CPU, config.num_bands)
    with torch.inference_mode():
        noise = images.science.new_zeros(len(images.science), config.num_latent)
        return latent_kl(network(images, noise)).numpy()


def swap_loss(config: UNetVAEConfig, network: UNetVAE, batch: Batch) -> float:
    """PSNR with the own latent minus that with the latent of the next object [dB], skips open as when it is applied.

    About 0 where the skips say all; the image and the skips stay the object's own.
    """
    images = cutouts(batch, config.size, CPU, config.num_bands)
    clean = torch.tensor(np.nan_to_num(batch["clean"])).view(images.science.shape)
    seen = network.stretch(images.science) * images.usable
    quality = []
    with torch.inference_mode():
        levels, latent, logvar = network.encode(images)
        for told in (latent, latent.roll(1, 0)):
            flux = network.flux(Output(*network.decode(told, levels, None, seen), told, logvar))
            quality.append(psnr(flux, clean, images.usable).nanmean().item())
    return quality[0] - quality[1]


def latent_report(latents: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what `latent_use` found by method: one line each, then the KL of each latent in the order of the network."""
    print(f"\n{'latent':16}{'KL (nat)':>12}{'each, from':>12}{'median':>8}{'to':>8}{'active':>10}"
          f"{'reconstruction':>17}{'PSNR (dB)':>11}{'swapped (dB)':>14}")  # fmt: skip
    for name, row in latents.items():
        least, middle, most = (row.get(f"kl_latent_{which}", np.nan) for which in ("min", "median", "max"))
        print(f"{name:16}{row['kl']:12.2f}{least:12.2f}{middle:8.2f}{most:8.2f}{row['active_latents']:10.1f}"
              f"{row['reconstruction']:17.4f}{row.get('psnr', np.nan):11.2f}{-row.get('swap_db', np.nan):+14.2f}")  # fmt: skip
    for name, row in latents.items():
        each = row.get("kl_latents", [])
        for first in range(0, len(each), PER_LINE):
            label = f"{name}, KL of {first} on" if not first else f"{first:>{len(name) + 10}} on"
            print(f"{label:32}" + "".join(f"{value:7.2f}" for value in each[first : first + PER_LINE]))
