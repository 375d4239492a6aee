"""What every registered model keeps when it is built and trained, whatever it is: one suite over the registry."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from engine.train.epochs import module_weights
from models import MODELS
from models.spec import ModelSpec
from models.training import unwrapped
from tests.smallmodels import SMALL, make_batch, started


def test_registry_name_is_the_name_of_the_spec() -> None:
    assert {name: spec.name for name, spec in MODELS.items()} == {name: name for name in MODELS}


def test_builds_from_defaults(spec: ModelSpec) -> None:
    config = spec.config()
    module = spec.build(config)
    assert sum(p.numel() for p in module.parameters()) > 0
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_config_survives_json_and_refuses_unknown_keys(spec: ModelSpec, config) -> None:
    adapter = TypeAdapter(spec.config)
    again = adapter.validate_python(json.loads(adapter.dump_json(config)))
    assert again == config
    with pytest.raises(ValidationError, match="unexpected"):
        adapter.validate_python({"no_such_key": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, next(iter(SMALL[spec.name])), 1)


def test_state_can_be_stored_as_plain_arrays(spec: ModelSpec, config) -> None:
    for name, value in spec.build(config).state_dict().items():
        assert isinstance(value, torch.Tensor), name


def test_loss_is_finite_and_every_parameter_learns(spec: ModelSpec, config, batch) -> None:
    task = started(spec, config)
    metrics = task.step(batch, 0)
    assert "loss" in metrics
    assert all(np.isfinite(value) for value in metrics.values())
    for module in task.modules.values():
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


class Wrapper(nn.Module):
    """Stands in front of a module as DDP does, and counts."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.module(*args, **kwargs)


def test_a_step_goes_once_through_each_entry_of_modules(spec: ModelSpec, config, batch) -> None:
    # Data-parallel training replaces them by wrapped ones, which synchronise gradients once a call.
    task = started(spec, config)
    wrapped = {name: Wrapper(module) for name, module in task.modules.items()}
    task.modules.update(wrapped)
    task.step(batch, 0)
    assert {name: module.calls for name, module in wrapped.items()} == dict.fromkeys(wrapped, 1)
    task.evaluate(batch)
    sampled_unwrapped = {"prior": 1} if "prior" in wrapped else {}  # of the VAE: no gradients, no wrapper
    expected = dict.fromkeys(wrapped, 2) | sampled_unwrapped
    assert {name: module.calls for name, module in wrapped.items()} == expected


def test_weights_of_the_task_are_those_of_the_module_that_is_built(spec: ModelSpec, config) -> None:
    # As `engine.train.epochs.module_weights` names them.
    task = started(spec, config)
    weights = module_weights({name: unwrapped(module) for name, module in task.modules.items()})
    built = spec.to_build(config, {name: value.numpy() for name, value in weights.items()})
    spec.build(config).load_state_dict({name: torch.from_numpy(value) for name, value in built.items()})


def test_overfits_eight_samples(spec: ModelSpec, config) -> None:
    task = started(spec, config, total_steps=150)
    batch = make_batch(spec, config, 8)
    first = task.evaluate(batch)["loss"]
    for step in range(150):
        task.step(batch, step)
    last = task.evaluate(batch)["loss"]
    assert last < first - 0.5 * abs(first)


def test_same_seed_gives_the_same_curve_and_another_seed_another(spec: ModelSpec, config, batch) -> None:
    def curve(seed: int) -> list[float]:
        task = started(spec, config, seed=seed)
        return [task.step(batch, step)["loss"] for step in range(3)]

    assert curve(3) == curve(3)
    assert curve(3) != curve(4)


def test_training_leaves_the_global_generator_alone(spec: ModelSpec, config, batch) -> None:
    torch.manual_seed(11)
    wanted = torch.rand(1)
    torch.manual_seed(11)
    started(spec, config).step(batch, 0)
    assert torch.rand(1) == wanted


def test_resumed_training_repeats_the_uninterrupted(spec: ModelSpec, config, batch) -> None:
    whole, first, second = (started(spec, config) for _ in range(3))
    wanted = [whole.step(batch, step)["loss"] for step in range(6)]
    found = [first.step(batch, step)["loss"] for step in range(3)]
    second.load_state_dict(first.state_dict())
    found += [second.step(batch, step)["loss"] for step in range(3, 6)]
    assert found == wanted


def test_state_holds_only_tensors_in_nested_dicts(spec: ModelSpec, config, batch) -> None:
    task = started(spec, config)
    task.step(batch, 0)

    def visit(value, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(inner, f"{path}/{key}")
        else:
            assert isinstance(value, torch.Tensor), path

    visit(task.state_dict(), "")


def test_evaluate_is_deterministic_and_changes_nothing(spec: ModelSpec, config, batch) -> None:
    task = started(spec, config)
    task.step(batch, 0)
    before = module_weights(task.modules)
    first, second = task.evaluate(batch), task.evaluate(batch)
    assert first == second
    after = module_weights(task.modules)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_models_import_neither_ray_nor_pyarrow() -> None:
    # A bare GPU machine has neither. What only training needs is not imported to build a network that predicts.
    code = (
        "import sys, models; [spec.build(spec.config()) for spec in models.MODELS.values()]; "
        "print([m for m in ('ray', 'pyarrow', 'astropy', 'pydantic', 'fsspec', 'escnn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
