"""Density of what normal objects look like, by a masked autoregressive flow: log p is low where few of them are.

Of latents, or of the pattern of residuals. It is conditional: how likely is this for an object of this redshift, class
and signal-to-noise? So a spectrum is found that would be ordinary at another redshift or in another class, and faint
ones are compared with faint ones.

The network is zuko's; the weights are kept as one array. Trained on the reference sample when scores are fitted.

References
----------
Papamakarios et al. (2017), "Masked Autoregressive Flow for Density Estimation", arXiv:1705.07057. Liang et al.
(2023, arXiv:2302.02496) rank DESI galaxies by the log p of such a flow.
"""

# N reference objects, B objects, D values of each, C conditions

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NUM_TRANSFORMS, HIDDEN = 4, (128, 128)
BATCH_ROWS, MAX_EPOCHS, PATIENCE = 256, 40, 4
LEARNING_RATE, WEIGHT_DECAY, GRAD_CLIP_NORM = 2e-3, 1e-2, 5.0
HELD_OUT = 0.1
"""Part of the reference that chooses the epoch: with a hundred values and few thousand objects it would overfit."""

LEAST_SPREAD = 1e-3
"""A value that spreads less than this over the reference says nothing, and is not blown up."""

LEAST_ROWS = 20


class ConditionalDensity:
    """A flow of standardised values.

    Parameters
    ----------
    flow
        zuko's flow, trained.
    centre, spread
        [D] mean and standard deviation of the reference.
    """

    def __init__(self, flow: nn.Module, centre: Tensor, spread: Tensor) -> None:
        self._flow, self._centre, self._spread = _masked_once(flow.eval()), centre, spread

    def __call__(self, values: np.ndarray, conditions: np.ndarray) -> np.ndarray:
        """Log density [B] float32 of [B, D] values given [B, C], in nats; NaN where a value is."""
        if not len(values):
            return np.empty(0, np.float32)
        with torch.inference_mode():
            scaled = (torch.tensor(values, dtype=torch.float32) - self._centre) / self._spread
            log_density = self._flow(torch.tensor(conditions)).log_prob(scaled)
            return (log_density - self._spread.log().sum()).numpy()

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return what a checkpoint keeps, under names that begin with `prefix`."""
        weights = nn.utils.parameters_to_vector(self._flow.parameters())
        return {
            f"{prefix}_weights": weights.detach().numpy(),
            f"{prefix}_scale": torch.stack([self._centre, self._spread]).numpy(),
        }


def fit_density(sample: np.ndarray, conditions: np.ndarray, seed: int) -> ConditionalDensity:
    """Train a flow on [N, D] values given [N, C] by maximum likelihood; what a held-out tenth likes best is kept.

    Raises
    ------
    ValueError
        If there are fewer than `LEAST_ROWS` rows.
    """
    if len(sample) < LEAST_ROWS:
        raise ValueError(f"{len(sample)} reference rows are too few for a density, need {LEAST_ROWS}")
    values = torch.tensor(sample, dtype=torch.float32)
    centre, spread = values.mean(0), values.std(0).clamp(min=LEAST_SPREAD)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(values), generator=generator)
    flow = _flow(values.shape[1], conditions.shape[1], seed)
    _train(flow, ((values - centre) / spread)[order], torch.tensor(conditions)[order], generator)
    return ConditionalDensity(flow, centre, spread)


def density_from_arrays(
    arrays: Mapping[str, np.ndarray], prefix: str, num_values: int, num_conditions: int
) -> ConditionalDensity:
    """Make it of what `arrays` gave.

    Raises
    ------
    ValueError
        If they are missing or of other shapes.
    """
    flow = _flow(num_values, num_conditions)
    shapes = {
        f"{prefix}_weights": (sum(parameter.numel() for parameter in flow.parameters()),),
        f"{prefix}_scale": (2, num_values),
    }
    for name, shape in shapes.items():
        found = arrays.get(name)
        if found is None or found.shape != shape:
            got = "nothing" if found is None else str(found.shape)
            raise ValueError(f"{name}: got {got}, expected {shape}; fit the scores anew")
    weights, scale = (torch.tensor(arrays[name]) for name in shapes)
    nn.utils.vector_to_parameters(weights, flow.parameters())
    return ConditionalDensity(flow, *scale)


def _flow(num_values: int, num_conditions: int, seed: int = 0) -> Any:
    from zuko.flows import MAF  # only where a density is asked for

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MAF(num_values, num_conditions, transforms=NUM_TRANSFORMS, hidden_features=HIDDEN)


def _masked_once(flow: nn.Module) -> nn.Module:
    """Apply the masks of the linear layers for good: zuko does at each call, which costs a third of a small batch."""
    from zuko.nn import MaskedLinear

    for module in list(flow.modules()):
        for name, child in module.named_children():
            if isinstance(child, MaskedLinear):
                child.weight.data.mul_(child.get_buffer("mask"))
                plain = nn.Linear(child.in_features, child.out_features, device="meta")
                plain.weight, plain.bias = child.weight, child.bias
                setattr(module, name, plain)
    return flow


def _train(flow: Any, values: Tensor, conditions: Tensor, generator: torch.Generator) -> None:
    """Maximise the likelihood; the weights of the best epoch stay."""
    num_held_out = max(int(HELD_OUT * len(values)), 2)
    held_out, rows_left = slice(num_held_out), torch.arange(num_held_out, len(values))
    optimizer = torch.optim.AdamW(flow.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = MAX_EPOCHS * -(-len(rows_left) // BATCH_ROWS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, kept, waited = float("inf"), copy.deepcopy(flow.state_dict()), 0
    for _ in range(MAX_EPOCHS):
        order = rows_left[torch.randperm(len(rows_left), generator=generator)]
        for rows in order.split(BATCH_ROWS):
            optimizer.zero_grad(set_to_none=True)
            (-flow(conditions[rows]).log_prob(values[rows]).mean()).backward()
            nn.utils.clip_grad_norm_(flow.parameters(), GRAD_CLIP_NORM)
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            loss = float(-flow(conditions[held_out]).log_prob(values[held_out]).mean())
        waited = 0 if loss < best else waited + 1
        if loss < best:
            best, kept = loss, copy.deepcopy(flow.state_dict())
        if waited == PATIENCE:
            break
    flow.load_state_dict(kept)
