import pytest
import torch
from torch import nn

from engine import packed
from engine.packed import PackedLinear, pack_linears

WIDE, NARROW = 2000, 256
pytestmark = pytest.mark.skipif(
    not isinstance(pack_linears(nn.Sequential(nn.Linear(WIDE, NARROW)), 64)[0], PackedLinear),
    reason="this torch or CPU cannot pack",
)


@pytest.fixture(params=[(WIDE, NARROW, True), (NARROW, WIDE, False)], ids=["wide", "narrow"])
def layer(request: pytest.FixtureRequest) -> nn.Linear:
    torch.manual_seed(1)
    inputs, outputs, bias = request.param
    return nn.Linear(inputs, outputs, bias=bias)


@pytest.mark.parametrize("rows", [0, 1, 7, 64, 100])
def test_packed_is_the_plain_layer(layer: nn.Linear, rows: int) -> None:
    x = torch.randn(rows, layer.in_features)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(layer, 64)(x), layer(x), rtol=1e-5, atol=1e-5)


def test_bfloat16_rounds_inputs_and_weights_alone(layer: nn.Linear) -> None:
    """Against float32 products of rounded numbers: sums and bias are not rounded (the result is, to 2^-9)."""
    x = torch.randn(64, layer.in_features)
    rounded = layer.weight.detach().bfloat16().float()
    with torch.inference_mode():
        product = nn.functional.linear(x.bfloat16().float(), rounded)
        expected = product if layer.bias is None else product + layer.bias
        given = PackedLinear(layer, 64, torch.bfloat16)(x)
    assert given.dtype == torch.float32
    assert torch.all((given - expected).abs() <= 2.0**-8 * product.abs() + 1e-5)


def test_a_cpu_without_bfloat16_rounds_alike(layer: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "multiplies_bfloat16", lambda: False)
    x, rounded = torch.randn(64, layer.in_features), nn.Linear(layer.in_features, layer.out_features)
    rounded.weight = nn.Parameter(layer.weight.detach().bfloat16().float())
    rounded.bias = layer.bias
    with torch.inference_mode():
        given = PackedLinear(layer, 64, torch.bfloat16)(x)
        torch.testing.assert_close(given, rounded(x.bfloat16().float()), rtol=1e-5, atol=1e-5)


def test_only_large_float32_layers_are_packed_wherever_they_are() -> None:
    inner = nn.ModuleDict({"large": nn.Linear(WIDE, NARROW), "small": nn.Linear(8, 8)})
    inner["exact"] = nn.Linear(WIDE, NARROW).double()
    module = pack_linears(nn.ModuleDict({"inner": inner, "act": nn.ReLU()}), 64)
    kinds = {name: type(child) for name, child in module.get_submodule("inner").named_children()}
    assert kinds == {"large": PackedLinear, "small": nn.Linear, "exact": nn.Linear}


def test_layers_stay_where_torch_cannot_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_pack", None)
    assert type(pack_linears(nn.Sequential(nn.Linear(WIDE, NARROW)), 64)[0]) is nn.Linear
