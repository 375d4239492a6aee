"""The classifier laid out for a CPU: the same numbers, another network."""

import dataclasses

import pytest
import torch

from models import disk_packed
from models.disk_classifier_config import PRESETS, DiskClassifierConfig
from models.disk_networks import DiskNetwork
from models.disk_packed import PackedConvolution, packed
from models.scoring.cutouts import Cutouts

SMALL = PRESETS["small"]
can_pack = pytest.mark.skipif(
    not isinstance(packed(DiskNetwork(SMALL), 4), DiskNetwork)
    or not any(isinstance(part, PackedConvolution) for part in packed(DiskNetwork(SMALL), 4).modules()),
    reason="this torch or CPU cannot pack",
)


def images(rows: int, config: DiskClassifierConfig) -> Cutouts:
    generator = torch.Generator().manual_seed(rows)
    science = 50 * torch.randn(rows, 3, config.network_pixels, config.network_pixels, generator=generator)
    return Cutouts(science, torch.ones_like(science), torch.ones_like(science, dtype=torch.bool))


@can_pack
@pytest.mark.parametrize("rows", [1, 4, 7])
@pytest.mark.parametrize("change", [{}, {"kernel_pixels": 5, "halvings": (1, 2)}, {"architecture": "plain"}])
def test_packed_is_the_plain_network_for_any_number_of_images(rows: int, change: dict) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, **change)
    network = DiskNetwork(config).eval()
    with torch.inference_mode():
        wanted = network(images(rows, config), with_features=True)
        found = packed(network, 4)(images(rows, config), with_features=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@can_pack
@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_moves_the_logits_a_little_with_or_without_its_products(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network, seen = DiskNetwork(SMALL).eval(), images(8, SMALL)
    if not native:
        monkeypatch.setattr(disk_packed, "multiplies_bfloat16", lambda: False)
    with torch.inference_mode():
        wanted, features = network(seen, with_features=True)
        network.products = torch.bfloat16
        found, rounded = packed(network, 8)(seen, with_features=True)
    assert found.dtype == rounded.dtype == torch.float32
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(rounded, features, rtol=0.03, atol=0.01 * float(features.std()))


@can_pack
def test_the_network_itself_stays_as_it_is() -> None:
    network = DiskNetwork(SMALL).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert packed(network, 4) is not network
    assert before.keys() == network.state_dict().keys()
    assert not any(isinstance(part, PackedConvolution) for part in network.modules())


def test_what_cannot_be_packed_is_returned_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for network in (
        torch.nn.Linear(2, 2),
        DiskNetwork(dataclasses.replace(SMALL, architecture="plain"), normalised=True),
        DiskNetwork(SMALL).double(),
    ):
        assert packed(network, 4) is network
    network = DiskNetwork(SMALL)
    monkeypatch.setattr(disk_packed, "_convolution", None)
    assert packed(network, 4) is network
