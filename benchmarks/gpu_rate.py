"""Images a second of denoiser and disk classifier: bfloat16, channels innermost, compiled, against eager float32.

    python -m benchmarks.gpu_rate [--device cuda] [--batch-rows 512] [--batches 50]

The networks of the shipped checkpoints alone, on noise that lies on the device already: without reading, measuring and
writing. Turns alternate; the best of each counts. `difference` is the largest one between the two, in units of the
scatter of the float32 output. Eager float32 uses TF32 as torch does by itself; `--no-tf32` takes it away.
"""

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.checkpoint import load
from engine.infer import open_model
from engine.storage import Storage
from models import MODELS
from models.scoring.cutouts import Cutouts

CHECKPOINTS = ("checkpoints/unet_vae_nircam", "checkpoints/disk_classifier_nircam")
TURNS = 3

Run = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-rows", type=int, default=512)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--no-tf32", action="store_true")
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = not args.no_tf32
    device = torch.device(args.device)
    print(f"{'network':18}{'eager float32':>16}{'compiled bfloat16':>20}{'gain':>8}{'difference':>12}")
    for uri in CHECKPOINTS:
        name, plain, fast = networks(uri, device, args.batch_rows)
        with torch.inference_mode():
            wanted, found = plain(), fast()  # compiles
            rates = images_a_second((plain, fast), device, args.batch_rows, args.batches)
        off = float((found - wanted).abs().max() / wanted.std())
        print(f"{name:18}{rates[0]:16.0f}{rates[1]:20.0f}{rates[1] / rates[0]:8.2f}{off:12.1e}", flush=True)


def networks(uri: str, device: torch.device, rows: int) -> tuple[str, Run, Run]:
    """Name of a model, and its network on a batch of noise, eager and compiled."""
    checkpoint = load(uri, Storage())
    config, module = open_model(MODELS[checkpoint.model], checkpoint, uri)
    is_denoiser = checkpoint.model == "unet_vae"
    bands, size = (
        (config.num_bands, config.size) if is_denoiser else (len(config.bands), config.network_pixels)
    )
    generator = torch.Generator().manual_seed(1)
    science = torch.randn(rows, bands, size, size, generator=generator).to(device)
    images = Cutouts(science, torch.ones_like(science), torch.ones_like(science, dtype=torch.bool))
    more = (torch.zeros(rows, config.num_latent, device=device),) if is_denoiser else ()

    def run(network: nn.Module) -> Tensor:
        made = network(images, *more)
        return (made.mean if is_denoiser else made).float()

    plain = module.to(device)
    inner = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    inner.compile()

    def fast() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return run(inner)

    return checkpoint.model, lambda: run(plain), fast


def images_a_second(runs: tuple[Run, ...], device: torch.device, rows: int, batches: int) -> list[float]:
    """Speed of each, the best of some turns."""
    best = [0.0] * len(runs)
    for _ in range(TURNS):
        for number, run in enumerate(runs):
            finish(device)
            began = time.perf_counter()
            for _ in range(batches):
                run()
            finish(device)
            best[number] = max(best[number], rows * batches / (time.perf_counter() - began))
    return best


def finish(device: torch.device) -> None:
    """Wait for what a GPU was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
