"""What the latent of a denoiser is used for: its KL, and what is lost with the latent of another object."""

import numpy as np
import torch

from benchmarks.training_cutouts import Batch
from models.scoring.cutouts import cutouts
from models.scoring.denoising import psnr
from models.unet_vae import UNetVAETask
from models.unet_vae_config import UNetVAEConfig
from models.unet_vae_networks import Output, UNetVAE

CPU = torch.device("cpu")
NAMES = (
    "kl", "kl_latent_min", "kl_latent_median", "kl_latent_max", "active_latents", "reconstruction",
)  # fmt: skip


def latent_use(task: UNetVAETask, config: UNetVAEConfig, test: list[Batch]) -> dict[str, float]:
    """KL [nat an image] and active latents on the test images, and PSNR that swapped latents cost [dB]."""
    found = [task.evaluate(batch) for batch in test]
    use = {name: float(np.mean([m[name] for m in found])) for name in NAMES if name in found[0]}
    network = task.modules["unet_vae"]
    if not config.num_latent or not isinstance(network, UNetVAE):
        return use
    return use | {"swap_db": float(np.nanmean([swap_loss(config, network, batch) for batch in test]))}


def swap_loss(config: UNetVAEConfig, network: UNetVAE, batch: Batch) -> float:
    """PSNR with the own latent minus that with the latent of the next object [dB], skips open as when it is applied.

    About 0 where the skips say all; the image and the skips stay the object's own.
    """
    images = cutouts(batch, config.size, CPU)
    clean = torch.tensor(np.nan_to_num(batch["clean"])).view(images.science.shape)
    seen = network.stretch(images.science) * images.usable
    quality = []
    with torch.inference_mode():
        levels, latent, logvar = network.encode(images)
        for told in (latent, latent.roll(1, 0)):
            flux = network.flux(Output(*network.decode(told, levels, None, seen), told, logvar))
            quality.append(psnr(flux, clean, images.usable).nanmean().item())
    return quality[0] - quality[1]
