"""The last layer of the disk classifier fitted to other galaxies: features, and with them the symmetry, stay as they are."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from models.disk_classifier_config import DiskClassifierConfig
from models.disk_images import DISK, NO_DISK, views

Batch = dict[str, np.ndarray]

CPU = torch.device("cpu")


def fit_last_layer(config: DiskClassifierConfig, module: nn.Module, galaxies: Batch, penalty: float) -> None:
    """Change the last layer for the least cross-entropy, both classes of equal weight, plus a penalty.

    Parameters
    ----------
    config, module
        Settings, and the network that predicts; its last layer is changed.
    galaxies
        Columns that the classifier reads, and `label` without unknown ones.
    penalty
        On the mean square of the change in units of the scatter of each feature.
    """
    head = module.get_submodule("head.linear")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        seen = views(config, galaxies, CPU)
        parts = [module(images, with_features=True) for images in (seen.science, seen.judged)]
        base, features = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    label = torch.tensor(galaxies["label"]).long().repeat(2)
    weight = torch.tensor([1.0, 1.0]) / torch.bincount(label, minlength=2)
    mean = features.mean(0)
    features = features - mean
    scale = features.std(0).clamp(min=1e-6)
    change = torch.zeros(head.in_features + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([change], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        extra = (features / scale) @ change[:-1] + change[-1]
        logits = base + torch.stack([-extra / 2, extra / 2], 1)
        value = cross_entropy(logits, label, weight) + penalty * change[:-1].square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        for sign, row in ((-0.5, NO_DISK), (0.5, DISK)):
            head.weight[row] += sign * change[:-1] / scale
            head.bias[row] += sign * (change[-1] - (change[:-1] / scale) @ mean)
