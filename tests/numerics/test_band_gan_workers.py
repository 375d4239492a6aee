"""Two processes with half the batch each train the networks that one trains with all of it."""

from pathlib import Path

import numpy as np
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from engine.train.epochs import module_weights
from models.band_gan import BandGANTask
from models.band_gan_config import BandGANConfig
from models.scoring.band_columns import BandScoringConfig
from models.training import unwrapped
from tests.cutouts import make_cutouts

ROWS, STEPS, WORKERS = 8, 4, 2
CONFIG = BandGANConfig(
    size=16, width=8, levels=2, discriminator_width=8, precision="float32", adversarial_weight=1.0,
    adversarial_noise=False, scoring=BandScoringConfig(num_latent=2),
)  # fmt: skip


def trained(rank: int | None) -> dict[str, torch.Tensor]:
    """Weights after some steps, of one process (rank None) or of one of two."""
    torch.set_num_threads(1)
    task = BandGANTask(CONFIG, 0)
    task.start(torch.device("cpu"), 100)
    # Plain gradient descent: Adam turns rounding of tiny gradients into whole steps.
    task.optimizers = {name: torch.optim.SGD(m.parameters(), 0.1) for name, m in task.modules.items()}
    if rank is not None:
        task.modules.update({name: DistributedDataParallel(m) for name, m in task.modules.items()})
    mine = slice(None) if rank is None else slice(rank * ROWS // WORKERS, (rank + 1) * ROWS // WORKERS)
    for step in range(STEPS):
        batch = make_cutouts(ROWS, 16, seed=step)
        task.step({key: values[mine] for key, values in batch.items()}, step)
    return module_weights({name: unwrapped(module) for name, module in task.modules.items()})


def work(rank: int, folder: str) -> None:
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=WORKERS)
    try:
        torch.save(trained(rank), f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_workers_stay_equal_and_equal_to_one_with_the_joined_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=WORKERS)  # pyright: ignore[reportPrivateImportUsage]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORKERS))
    single = trained(None)
    start = module_weights(BandGANTask(CONFIG, 0).modules)
    assert first.keys() == single.keys()
    for name, values in single.items():
        assert torch.equal(first[name], second[name]), name
        moved = (values - start[name]).abs().max().item()
        assert moved > 0, name
        np.testing.assert_allclose(first[name], values, rtol=0, atol=1e-3 * moved + 1e-7, err_msg=name)
