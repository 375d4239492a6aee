"""From the weights of a disk classifier as it was trained to those of the network that predicts. Needs no escnn.

Filters are written out from their basis, which lies beside the coefficients, so that an export does not depend on
how another machine would solve for it; batch normalisation becomes part of the convolutions.
"""

# O, I channels out and in; G elements of the group; K coefficients a pair of fields

import numpy as np

from models.disk_classifier_config import KERNEL_PIXELS, NUM_BANDS, DiskClassifierConfig
from models.spec import Weights

EPSILON = 1e-5
"""Added to variances by batch normalisation, in torch and in escnn."""

Fields = tuple[int, int]
"""Channels of a field, and number of fields."""


def exported(config: DiskClassifierConfig, weights: Weights) -> Weights:
    """Weights of `models.disk_networks.DiskNetwork` from those of the trained network.

    Parameters
    ----------
    config
        Settings that both have.
    weights
        State of `EquivariantNetwork`, or of `DiskNetwork` with normalisation if the architecture is "plain".

    Raises
    ------
    ValueError
        If they are of another group or other fields than `config` has; the message says what was expected.
    """
    before, out = (1, NUM_BANDS), Weights()
    for index, fields in enumerate(config.widths):
        block = f"blocks.{index}"
        after = (config.group_order, fields)
        filters = _filters(config, weights, f"{block}.convolution.", before, after)
        gain, offset = _normalisation(weights, f"{block}.norm.", after)
        out[f"{block}.convolution.weight"] = (filters * gain[:, None, None, None]).astype(np.float32)
        out[f"{block}.convolution.bias"] = offset.astype(np.float32)
        before = after
    return out | {name: np.asarray(weights[name]) for name in ("head.linear.weight", "head.linear.bias")}


def _filters(
    config: DiskClassifierConfig, weights: Weights, prefix: str, before: Fields, after: Fields
) -> np.ndarray:
    """Write out filters [O, I, 3, 3], channels in the order field, element."""
    side = (KERNEL_PIXELS, KERNEL_PIXELS)
    if config.architecture == "plain":
        return _array(weights, prefix + "weight", (after[1], before[1], *side), config).astype(np.float64)
    (name,) = [n for n in weights if n.startswith(prefix) and n.endswith("sampled_basis")] or [
        prefix + "sampled_basis"
    ]
    basis = _array(weights, name, (None, after[0], before[0], KERNEL_PIXELS**2), config).astype(np.float64)
    num_pairs = after[1] * before[1]
    coefficients = _array(weights, prefix + "weights", (num_pairs * len(basis),), config)
    blocks = np.einsum("koip,bk->boip", basis, coefficients.reshape(num_pairs, -1))
    blocks = blocks.reshape(after[1], before[1], *blocks.shape[1:]).swapaxes(1, 2)
    return blocks.reshape(after[0] * after[1], before[0] * before[1], *side)


def _normalisation(weights: Weights, prefix: str, after: Fields) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset of each channel [O] that batch normalisation amounts to in evaluation."""
    names = {name.rpartition(".")[2]: name for name in weights if name.startswith(prefix)}
    gain, offset, mean, variance = (
        np.repeat(weights[names[key]].astype(np.float64), after[0])
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gain / np.sqrt(variance + EPSILON)
    return factor, offset - mean * factor


def _array(
    weights: Weights, name: str, shape: tuple[int | None, ...], config: DiskClassifierConfig
) -> np.ndarray:
    found = weights.get(name)
    got = () if found is None else found.shape
    if (
        found is None
        or len(got) != len(shape)
        or any(b not in (None, a) for a, b in zip(got, shape, strict=True))
    ):
        expected = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(
            f"{name} is {'missing' if found is None else got}, expected [{expected}]: {config.architecture} "
            f"network with rotations {config.rotations}, fields {config.fields}"
        )
    return found
