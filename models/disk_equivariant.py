"""The disk classifier as it is trained with escnn: equivariant under rotations and reflections.

After Pandya et al. (2023, arXiv:2311.01500) and, with 8 rotations, Mirzoyan (2025, arXiv:2506.19434): regular
fields of a dihedral group (Weiler & Cesa 2019, arXiv:1911.08251). Quarter turns and flips are exact on a
pixel grid, other rotations of the group nearly so. Only training imports this module.
"""

import torch
from torch import Tensor

from models.disk_classifier_config import NUM_BANDS, DiskClassifierConfig
from models.disk_networks import InvariantHead, Preparation
from models.escnn_import import building, gspaces, nn
from models.scoring.cutouts import Cutouts


def symmetry(rotations: int) -> gspaces.GSpace2D:
    """Plane with a group of `rotations` rotations and as many reflections, which escnn calls D{rotations}."""
    return gspaces.flipRot2dOnR2(N=rotations)


class EquivariantNetwork(torch.nn.Module):
    """Logits of images by regular fields of the group; trained, then written out by `models.disk_export`.

    Built in training mode: in evaluation mode escnn adds filters to the state.
    """

    def __init__(self, config: DiskClassifierConfig) -> None:
        super().__init__()
        plane = symmetry(config.rotations)
        self.preparation = Preparation(config)
        self._input = nn.FieldType(plane, NUM_BANDS * [plane.trivial_repr])
        self.blocks = torch.nn.ModuleList()
        before = self._input
        with building():
            for number, fields in enumerate(config.widths, 1):
                after = nn.FieldType(plane, fields * [plane.regular_repr])
                self.blocks.append(_block(config, number, before, after))
                before = after
        self.pooling = nn.GroupPooling(before)
        self.head = InvariantHead(config.widths[-1], 1, config.dropout)
        self.train()

    def forward(self, images: Cutouts, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits [B, 2] of images [B, 3, S, S] as `models.disk_networks.DiskNetwork` does."""
        fields = nn.GeometricTensor(self.preparation(images), self._input)
        for block in self.blocks:
            fields = block(fields)
        return self.head(self.pooling(fields).tensor, with_features)


def _block(
    config: DiskClassifierConfig, number: int, before: nn.FieldType, after: nn.FieldType
) -> nn.SequentialModule:
    pixels, block = config.kernel_pixels, nn.SequentialModule()
    # Without recompute, networks of one process share a basis: what moves or loads one changes the others.
    convolution = nn.R2Conv(before, after, pixels, padding=pixels // 2, bias=False, recompute=True)
    block.add_module("convolution", convolution)
    block.add_module("norm", nn.InnerBatchNorm(after))
    block.add_module("relu", nn.ReLU(after))
    if number in config.halvings:
        block.add_module("blur", nn.PointwiseAvgPoolAntialiased(after, sigma=config.blur_sigma, stride=2))
    return block
