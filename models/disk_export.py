"""Weights of the disk classifier that predicts, from those of the one that was trained. Needs no escnn.

Filters are written out from their basis, which lies beside the coefficients, so that an export does not
depend on how another machine would solve for it; batch normalisation becomes part of the convolutions.
"""

# O, I channels out and in; G elements of the group; P pixels of a kernel

import numpy as np

from models.disk_classifier_config import BASIS_SIZE, NUM_BANDS, NUM_CLASSES, DiskClassifierConfig
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
    read = _Reader(config, weights)
    before, out = (1, NUM_BANDS), Weights()
    for index, fields in enumerate(config.widths):
        block, after = f"blocks.{index}.", (config.group_order, fields)
        filters = _filters(read, block + "convolution.", before, after)
        factor, offset = _normalisation(read, block + "norm.", after)
        out[block + "convolution.weight"] = (filters * factor[:, None, None, None]).astype(np.float32)
        out[block + "convolution.bias"] = offset.astype(np.float32)
        before = after
    num_features = config.widths[-1]
    out["head.linear.weight"] = read("head.linear.", "weight", NUM_CLASSES, num_features).astype(np.float32)
    out["head.linear.bias"] = read("head.linear.", "bias", NUM_CLASSES).astype(np.float32)
    return out


class _Reader:
    """Reads arrays of a state, and refuses those of another network."""

    def __init__(self, config: DiskClassifierConfig, weights: Weights) -> None:
        self.config, self._weights = config, weights

    def __call__(self, prefix: str, last: str, *shape: int) -> np.ndarray:
        """Array in float64 whose name begins and ends so; escnn puts the names of representations between."""
        names = [n for n in self._weights if n.startswith(prefix) and n.rpartition(".")[2] == last]
        got = "nothing" if not names else self._weights[names[0]].shape
        if got != shape:
            raise ValueError(
                f"{prefix}{last} is {got}, expected {shape}: weights of a {self.config.architecture} network "
                f"with rotations {self.config.rotations}, fields {self.config.fields}"
            )
        return self._weights[names[0]].astype(np.float64)


def _filters(read: _Reader, prefix: str, before: Fields, after: Fields) -> np.ndarray:
    """Write out filters [O, I, P, P], channels in the order field, element."""
    pixels = read.config.kernel_pixels
    if read.config.architecture == "plain":
        return read(prefix, "weight", after[1], before[1], pixels, pixels)
    num_free, num_pairs = BASIS_SIZE[pixels] * before[0], after[1] * before[1]
    basis = read(prefix, "sampled_basis", num_free, after[0], before[0], pixels**2)
    coefficients = read(prefix, "weights", num_pairs * num_free).reshape(after[1], before[1], num_free)
    blocks = np.einsum("koip,abk->aobip", basis, coefficients)
    return blocks.reshape(after[0] * after[1], before[0] * before[1], pixels, pixels)


def _normalisation(read: _Reader, prefix: str, after: Fields) -> tuple[np.ndarray, np.ndarray]:
    """Find factor and offset of each channel [O] that batch normalisation amounts to in evaluation."""
    gain, offset, mean, variance = (
        np.repeat(read(prefix, name, after[1]), after[0])
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gain / np.sqrt(variance + EPSILON)
    return factor, offset - mean * factor
