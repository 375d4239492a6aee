"""A network beside the running mean of its weights: what is trained, and what is kept.

The mean has the weights as buffers: they are part of the state, so they are stored and resumed with it, and
no optimiser or gradient reaches them. In training mode the network itself computes, else its mean.
"""

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from models.spec import Weights
from models.training import unwrapped

Kind = TypeVar("Kind", bound=nn.Module)

TRAINED, AVERAGE = "trained", "average"


class Averaged(nn.Module):
    """A network and the exponential running mean of its weights (Polyak & Juditsky 1992; Karras et al. 2018).

    Parameters
    ----------
    network
        What is trained. Its buffers must not change in training.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.trained = network
        self.average = _frozen(network)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network in training mode, its mean else."""
        return (self.trained if self.training else self.average)(*args, **kwargs)

    @torch.no_grad()
    def update(self, decay: float, step: int) -> None:
        """Move the mean towards the weights after step `step`, counted from 0.

        The first steps count less: decay is at most (1 + step) / (10 + step), so that the start is forgotten.
        """
        means = dict(self.average.named_buffers())
        weight = 1 - min(decay, (1 + step) / (10 + step))
        for name, parameter in self.trained.named_parameters():
            means[name].lerp_(parameter, weight)


def average_of(module: nn.Module, kind: type[Kind]) -> Kind:
    """Return the running mean of a network, which is a `kind`, wrapped by DDP or not."""
    inner = unwrapped(module)
    average = inner.average if isinstance(inner, Averaged) else inner
    if not isinstance(average, kind):
        raise TypeError(f"network is a {type(average).__name__}, expected {kind.__name__}")
    return average


def exported(config: object, weights: Weights) -> Weights:
    """Means of the weights under the names of the network; modules that have no mean as they are."""
    del config
    kept = {name: value for name, value in weights.items() if TRAINED not in name.split(".")[:2]}
    return {
        ".".join(part for n, part in enumerate(name.split(".")) if n > 1 or part != AVERAGE): value
        for name, value in kept.items()
    }


def _frozen(network: nn.Module) -> nn.Module:
    """Copy a network with buffers in the place of its parameters."""
    frozen = copy.deepcopy(network)
    for module in frozen.modules():
        for name, parameter in list(module._parameters.items()):
            del module._parameters[name]
            if parameter is not None:
                module.register_buffer(name, parameter.detach().clone())
            else:
                module.register_parameter(name, None)
    return frozen
