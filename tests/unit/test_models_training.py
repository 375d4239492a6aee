"""Helpers that training tasks share."""

import itertools

import pytest
import torch
from torch import nn

from models.training import choose_bfloat16, optimizer_tensors, restore_optimizer, unwrapped, warmup_cosine

CPU = torch.device("cpu")


def test_schedule_rises_to_one_and_falls_to_the_last_value() -> None:
    factors = [warmup_cosine(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == 1
    assert factors.index(max(factors)) == 9
    assert factors[-1] == pytest.approx(0.01)
    assert all(b <= a for a, b in itertools.pairwise(factors[9:]))


def test_schedule_without_warm_up_and_past_the_end() -> None:
    assert warmup_cosine(0, 1, 0.0) == pytest.approx(0.01)
    assert warmup_cosine(500, 100, 0.1) == pytest.approx(0.01)


def test_precision_follows_the_setting_and_says_why() -> None:
    assert choose_bfloat16("float32", CPU) == (False, "configured")
    assert choose_bfloat16("bfloat16", CPU) == (True, "configured")


@pytest.mark.parametrize(("supported", "reason"), [(True, "avx512_bf16"), (False, "without native")])
def test_automatic_precision_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, supported: bool, reason: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    chosen, why = choose_bfloat16("auto", CPU)
    assert chosen is supported
    assert reason in why


def test_optimiser_state_goes_through_tensors() -> None:
    def stepped(steps: int) -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        for _ in range(steps):
            net(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        return net, optimizer

    _, old = stepped(3)
    _, new = stepped(0)
    tensors = optimizer_tensors(old)
    assert all(isinstance(value, torch.Tensor) for value in tensors.values())
    restore_optimizer(new, tensors)
    again = optimizer_tensors(new)
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_wrapped_module_is_found() -> None:
    net = nn.Linear(1, 1)
    wrapper = nn.Module()
    wrapper.module = net
    assert unwrapped(wrapper) is net
    assert unwrapped(net) is net
