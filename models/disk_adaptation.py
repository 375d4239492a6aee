"""Features of two domains brought together: galaxies with a class, and others (real ones) without.

After SIDDA (Pandya et al. 2025, arXiv:2501.14048): a debiased Sinkhorn divergence between the features of both, whose
blur follows the spread of the features. Ours differs: its weight is a setting and not learned, and where batches are of
one domain each (`[mix]`), features are compared with those of the last batch of the other.
"""

# N, M objects of the two domains, D features

import math

import torch
from torch import Tensor

RELATIVE_BLUR, LEAST_BLUR = 0.05, 0.01
"""Blur in units of the largest distance between features of the two domains, and its least value, as in SIDDA."""
ITERATIONS = 30
"""Of the fixed point, after the blur has come down."""
COOLING = 0.7
"""Factor on the blur from one step to the next of the way down."""


def sinkhorn_divergence(source: Tensor, target: Tensor, blur: float) -> Tensor:
    """Debiased entropic transport cost OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2, for the cost |x - y|^2 / 2.

    Objects have equal weights. The temperature is blur^2; for a small one it is half the squared Wasserstein distance,
    for a large one that of the means. 0 if and only if both sets are equal.

    Parameters
    ----------
    source, target
        [N, D] and [M, D], N and M at least 1.
    blur
        Distance below which the transport does not look [unit of the features], positive.

    References
    ----------
    Feydy et al. (2019), arXiv:1810.08278, Eq. 3 (the divergence), Sect. 3 (its computation in the log domain).
    """
    cross = _transport(source, target, blur)
    return cross - 0.5 * (_transport(source, source, blur) + _transport(target, target, blur))


def dynamic_blur(source: Tensor, target: Tensor) -> float:
    """Blur that follows the features: SIDDA, Sect. 3, as in its code."""
    with torch.no_grad():
        return max(RELATIVE_BLUR * float(torch.cdist(source, target).max()), LEAST_BLUR)


def _transport(source: Tensor, target: Tensor, blur: float) -> Tensor:
    """Entropic transport cost; its gradient is that of the cost under the optimal plan, by the envelope theorem."""
    cost = 0.5 * (source[:, None] - target[None]).square().sum(-1)
    with torch.no_grad():
        first, second = _potentials(cost, blur)
        plan = torch.exp((first[:, None] + second[None] - cost) / blur**2) / cost.numel()
        value = first.mean() + second.mean()
    paid = (plan * cost).sum()
    return value + paid - paid.detach()


def _potentials(cost: Tensor, blur: float) -> tuple[Tensor, Tensor]:
    """Dual potentials [N] and [M], by Sinkhorn's iteration in logarithms, from a coarse blur down to the fine one."""
    widest = max(math.sqrt(2 * float(cost.max())), blur)
    cooling = [widest * COOLING**step for step in range(math.ceil(math.log(widest / blur, 1 / COOLING)))]
    second = cost.new_zeros(cost.shape[1])
    for current in [*cooling, *[blur] * ITERATIONS]:
        first = _softmin(cost - second, current, 1)
        second = _softmin(cost - first[:, None], current, 0)
    return first, second


def _softmin(cost: Tensor, blur: float, dim: int) -> Tensor:
    """Smooth minimum over a dimension: -T log mean exp(-cost / T), T = blur^2."""
    return -(blur**2) * (torch.logsumexp(-cost / blur**2, dim) - math.log(cost.shape[dim]))


class Domains:
    """Features of both domains: those of a step, or where a batch has one domain only, the last of the other.

    `state_dict` is part of the task's, so that a resumed run goes on as it would have.
    """

    def __init__(self) -> None:
        self._last: dict[str, Tensor] = {}

    def divergence(self, features: Tensor, known: Tensor, observed: Tensor) -> Tensor:
        """Sinkhorn divergence between objects with a class and observed ones without; 0 until both were seen.

        Parameters
        ----------
        features
            [B, D].
        known, observed
            [B] whether the class is known, and whether the object was observed.
        """
        here = {"source": features[known], "target": features[observed & ~known]}
        source, target = (rows if len(rows) else self._last.get(name, rows) for name, rows in here.items())
        self._last |= {name: rows.detach().clone() for name, rows in here.items() if len(rows)}
        if not (len(source) and len(target)):
            return 0.0 * features.sum()
        return sinkhorn_divergence(source, target, dynamic_blur(source, target))

    def state_dict(self) -> dict[str, Tensor]:
        """Features that are remembered."""
        return dict(self._last)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._last = dict(state)
