"""The eight symmetries of the square, which all images of the sky share."""

import torch
from torch import Tensor

NUM_SYMMETRIES = 8


def turned(images: Tensor, element: int) -> Tensor:
    """Images [..., S, S] under an element of the dihedral group of the square, 0 (nothing) to 7."""
    rotated = torch.rot90(images, element % 4, (-2, -1))
    return rotated.flip(-1) if element >= NUM_SYMMETRIES // 2 else rotated
