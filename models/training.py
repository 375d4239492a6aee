"""What training tasks of several models share: schedule, precision, and optimiser state as plain tensors."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn


def worker() -> tuple[int, int]:
    """Return which of how many processes that train together this is: (0, 1) where there is but one."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def warmup_cosine(step: int, total_steps: int, warmup_fraction: float, last: float = 0.01) -> float:
    """Factor on the learning rate: linear up to 1, then half a cosine down to `last`.

    A function of the step alone, so that a resumed run needs no schedule state.
    """
    warmup = warmup_fraction * total_steps
    if step + 1 < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step + 1 - warmup) / max(total_steps - warmup, 1.0))
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * progress))


def choose_bfloat16(precision: str, device: torch.device) -> tuple[bool, str]:
    """Whether to compute matrix products in bfloat16, and the reason for the log.

    Parameters
    ----------
    precision
        "float32", "bfloat16", or "auto": where the device computes with it natively. Emulated
        bfloat16 is slower than float32.
    device
        Where training runs.
    """
    if precision != "auto":
        return precision == "bfloat16", "configured"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"GPU capability {major}.{minor}"
    # Private in torch 2.13, and the only probe there is; without it float32 is the safe answer.
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    native = device.type == "cpu" and probe()
    return native, "CPU with avx512_bf16" if native else f"{device.type} without native bfloat16"


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments of an optimiser as `{"index.name": tensor}`; hyper-parameters follow from the configuration."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


@contextlib.contextmanager
def seeded(device: torch.device, seed: int, step: int) -> Iterator[None]:
    """Draw noise and dropout of a step from a generator of its own, on the CPU and on the device."""
    with drawing(device, seed * 1_000_003 + step):
        yield


@contextlib.contextmanager
def drawing(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators of the CPU and of the device, and put them back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def evaluating(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode for a while, and then back into the mode that each was in."""
    before = {name: module.training for name, module in modules.items()}
    for module in modules.values():
        module.eval()
    try:
        yield
    finally:
        for name, module in modules.items():
            module.train(before[name])


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network itself where DDP has wrapped it."""
    inner = getattr(module, "module", module)
    return inner if isinstance(inner, nn.Module) else module


def to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars from the device in one transfer."""
    numbers = torch.stack([value.detach().float() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))
