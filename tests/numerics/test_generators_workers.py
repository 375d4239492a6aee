"""Two processes that train a generator together keep equal weights, and draw different latents."""

from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from engine.train.epochs import module_weights
from models import MODELS
from models.training import unwrapped
from tests.blobs import make_blobs

STEPS, WORKERS = 3, 2
FAMILIES = ("image_vae", "image_alae", "image_stylegan", "image_flow")


class Recorder(nn.Module):
    """Keeps the sum of the noise or draws that a module is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.seen = module, list[float]()

    def forward(self, *args, **kwargs):
        self.seen.append(float(args[0].detach().sum()))
        return self.module(*args, **kwargs)


def trained(name: str, rank: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights after steps with R1 and path lengths, and what the first network was given."""
    spec = MODELS[name]
    extra = {"halvings": 1} if name == "image_flow" else {"num_latent": 8}
    if name in ("image_alae", "image_stylegan"):
        extra |= {"r1_interval": 2, "mapping_layers": 2, "noise_inputs": True}
    config = spec.config(size=16, width=8, max_width=16, augment=False, **extra)
    task = spec.task(config, 0)
    task.start(torch.device("cpu"), 100)
    bare = dict(task.modules)
    task.modules.update({key: DistributedDataParallel(module) for key, module in bare.items()})
    first = next(iter(task.modules))
    task.modules[first] = recorder = Recorder(task.modules[first])
    for step in range(STEPS):
        batch = make_blobs(8, 16, seed=step)
        task.step({key: values[4 * rank : 4 * rank + 4] for key, values in batch.items()}, step)
    return module_weights({key: unwrapped(module) for key, module in bare.items()}), recorder.seen


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=WORKERS)
    try:
        torch.save({name: trained(name, rank) for name in FAMILIES}, f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_workers_stay_equal_and_draw_for_themselves(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=WORKERS)  # pyright: ignore[reportPrivateImportUsage]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORKERS))
    for name in FAMILIES:
        assert first[name][0].keys() == second[name][0].keys()
        for key, values in first[name][0].items():
            assert torch.equal(values, second[name][0][key]), f"{name}: {key}"
        assert all(a != b for a, b in zip(first[name][1], second[name][1], strict=True)), name
