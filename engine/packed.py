"""Linear layers with weights laid out beforehand for the CPU that computes them.

A plain layer rearranges its weights at every call, which costs as much as the product itself where the
batch is small against the layer. In float32, results agree with the plain layer to rounding; in bfloat16,
inputs and weights have 8 bits, sums and bias 24: also on a CPU without such products, which rounds and
multiplies in float32, no faster than that.
"""

import torch
from torch import Tensor, nn

MIN_WEIGHTS = 1 << 17
"""Smaller layers stay as they are: there is nothing to gain."""

# Private in torch 2.13 (its compiler emits them); where they are missing, layers stay as they are.
_pack = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has products of bfloat16 (AVX-512 or better)."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and supported()


class PackedLinear(nn.Module):
    """`nn.Linear` for inference on a CPU.

    Parameters
    ----------
    linear
        The layer whose weights are taken.
    batch_rows
        Rows that it will mostly see at once; others are valid.
    dtype
        float32 or bfloat16: of the product. What goes in and comes out is float32.
    """

    def __init__(self, linear: nn.Linear, batch_rows: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        assert _pack is not None
        self._rounds = dtype == torch.bfloat16
        self._dtype = dtype if multiplies_bfloat16() else torch.float32
        self._weight = _pack(linear.weight.detach().to(dtype).to(self._dtype), batch_rows)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply [B, in] to [B, out]."""
        assert _product is not None
        if self._dtype == torch.float32:
            x = x.bfloat16().float() if self._rounds else x
            return _product(x, self._weight, self._bias, "none", [], "")
        out = _product(x.to(self._dtype), self._weight, None, "none", [], "").float()
        return out if self._bias is None else out.add_(self._bias)


def pack_linears(module: nn.Module, batch_rows: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Replace the large linear layers of a module, in place, where this CPU and torch can do it."""
    if _pack is None or _product is None or not torch.backends.mkldnn.is_available():
        return module
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _fits(child.weight):
                setattr(parent, name, PackedLinear(child, batch_rows, dtype))
    return module


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= MIN_WEIGHTS
