"""The disk classifier that predicts, laid out for the CPU it runs on: convolution, offset and ReLU in one pass.

A plain convolution rearranges its weights at every call, and ReLU reads and writes once more what it made. Results
agree with the plain network to rounding. In bfloat16 images between layers and weights have 8 bits, sums and offsets 24;
a CPU without such products rounds the same and multiplies in float32, no faster than that. On a GPU, and where torch lacks the operator, the network stays as it is.
"""

# B objects, n pixels a side, I, O channels in and out

import copy

import torch
from torch import Tensor, nn

from models.disk_networks import Blur, DiskNetwork

# Private in torch 2.13 (its compiler emits them); where they are missing, networks stay as they are.
_pack = getattr(torch.ops.mkldnn, "_reorder_convolution_weight", None)
_convolution = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)


class PackedConvolution(nn.Module):
    """ReLU of a convolution of stride 1 that keeps the size of the image, for inference on a CPU.

    Parameters
    ----------
    convolution
        The layer whose weights are taken.
    shape
        (B, n): images that it will mostly see at once, and their pixels a side; others are valid.
    products
        float32 or bfloat16: of products, and of what comes out.
    """

    def __init__(self, convolution: nn.Conv2d, shape: tuple[int, int], products: torch.dtype) -> None:
        super().__init__()
        assert _pack is not None
        self._padding = [pixels // 2 for pixels in convolution.kernel_size]
        self._products = products
        self._computed = products if multiplies_bfloat16() else torch.float32
        rows, pixels = shape
        size = [rows, convolution.in_channels, pixels, pixels]
        weight = convolution.weight.detach().to(products).to(self._computed)
        self._weight = _pack(weight, self._padding, [1, 1], [1, 1], 1, size)
        self._bias = None if convolution.bias is None else convolution.bias.detach()

    def forward(self, images: Tensor) -> Tensor:
        """Return [B, O, n, n] of [B, I, n, n]."""
        assert _convolution is not None
        images = images.to(self._products).to(self._computed)
        out = _convolution(images, self._weight, self._bias, self._padding, [1, 1], [1, 1], 1, "relu", [], "")
        return out.to(self._products)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has products of bfloat16."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and supported()


def packed(network: nn.Module, rows: int) -> nn.Module:
    """Return a copy of the network for inference in mini-batches of `rows` images on this CPU, in its `products`.

    The network itself is returned where nothing is to be gained: on a GPU, with batch normalisation of its own, or
    without the operator.
    """
    is_able = _pack is not None and _convolution is not None and torch.backends.mkldnn.is_available()
    if not (is_able and isinstance(network, DiskNetwork) and _is_plain_float32(network)):
        return network
    laid_out, pixels = copy.deepcopy(network), network.preparation.pixels
    for block in laid_out.blocks:
        assert isinstance(block, nn.Sequential)
        convolution = block.get_submodule("convolution")
        assert isinstance(convolution, nn.Conv2d)
        block.add_module("convolution", PackedConvolution(convolution, (rows, pixels), network.products))
        block.add_module("relu", nn.Identity())
        if any(isinstance(part, Blur) for part in block):
            pixels = (pixels + 1) // 2
    return laid_out


def _is_plain_float32(network: DiskNetwork) -> bool:
    weights = [*network.parameters()]
    is_fused = not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    return is_fused and all(w.device.type == "cpu" and w.dtype == torch.float32 for w in weights)
