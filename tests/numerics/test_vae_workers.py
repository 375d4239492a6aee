"""Two and four processes that share a batch of the spectral VAE have the loss curve and weights of one."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from engine.train.epochs import module_weights
from models.spectral_vae import SpectralVAETask
from models.spectral_vae_config import SpectralVAEConfig
from models.training import unwrapped

ROWS, STEPS = 16, 25
CONFIG = SpectralVAEConfig(
    num_pixels=200, num_latent=2, hidden=(32, 16), wave_max_angstrom=3759.2, precision="float32"
)

Trained = tuple[dict[str, torch.Tensor], list[float]]


def batch(step: int) -> dict[str, np.ndarray]:
    """Sloped continua with a line, noise and masked pixels."""
    rng = np.random.default_rng(step)
    x = np.linspace(-1, 1, CONFIG.num_pixels)
    slope, height, centre = rng.normal(0, 0.3, (3, ROWS, 1))
    flux = 1 + slope * x + 3 * np.abs(height) * np.exp(-(((x - centre) / 0.05) ** 2))
    ivar = np.where(rng.random(flux.shape) > 0.05, 100.0, 0.0)
    noisy = np.where(ivar > 0, flux + rng.normal(0, 0.1, flux.shape), 0)
    return {"flux": noisy.astype(np.float32), "ivar": ivar.astype(np.float32)}


def trained(rank: int = 0, workers: int = 1) -> Trained:
    """Weights and losses after some steps on a share of each batch."""
    torch.set_num_threads(1)
    task = SpectralVAETask(CONFIG, 0)
    task.start(torch.device("cpu"), STEPS)
    if workers > 1:
        task.modules.update({name: DistributedDataParallel(module) for name, module in task.modules.items()})
    mine = slice(rank * ROWS // workers, (rank + 1) * ROWS // workers)
    losses = [
        task.step({key: values[mine] for key, values in batch(step).items()}, step)["loss"]
        for step in range(STEPS)
    ]
    return module_weights({name: unwrapped(module) for name, module in task.modules.items()}), losses


def work(rank: int, workers: int, folder: str) -> None:
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    try:
        torch.save(trained(rank, workers), f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


@cache
def alone() -> Trained:
    return trained()


@pytest.mark.parametrize("workers", [2, 4])
def test_loss_curve_and_weights_are_those_of_one(tmp_path: Path, workers: int) -> None:
    """Noise included: each worker draws for its rows what one draws for them."""
    multiprocessing.spawn(work, (workers, str(tmp_path)), nprocs=workers)  # pyright: ignore[reportPrivateImportUsage]
    results: list[Trained] = [torch.load(tmp_path / f"{rank}.pt") for rank in range(workers)]
    weights, losses = alone()
    assert np.ptp(losses) > 0.1 * losses[0], "it has gone somewhere"
    np.testing.assert_allclose(np.mean([curve for _, curve in results], axis=0), losses, rtol=1e-4)
    for name, values in weights.items():
        for other, _ in results[1:]:
            assert torch.equal(other[name], results[0][0][name]), name
        # Adam turns rounding of gradients near zero into steps of its own size.
        np.testing.assert_allclose(results[0][0][name], values, rtol=0, atol=3e-3, err_msg=name)
