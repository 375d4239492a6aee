"""What every registered model keeps, whatever it is: one suite over the registry."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from engine.flags import FLAGS
from engine.train.epochs import module_weights
from models import MODELS
from models.spec import Batch, ModelSpec
from models.training import unwrapped
from tests.blobs import CONDITIONS, make_blobs
from tests.cutouts import make_cutouts
from tests.disks import make_disks

CPU = torch.device("cpu")
IMAGES = {
    "size": 16,
    "width": 8,
    "max_width": 16,
    "stretched_mean": (1.0,),
    "stretched_std": (1.2,),
    "ema_decay": 0.9,
}
TOLD = {
    "conditions": tuple(CONDITIONS), "condition_low": tuple(low for low, _ in CONDITIONS.values()),
    "condition_high": tuple(high for _, high in CONDITIONS.values()),
}  # fmt: skip
SMALL = {
    "spectral_vae": {
        "num_pixels": 200, "num_latent": 2, "hidden": (32, 16), "wave_max_angstrom": 3759.2, "window_pixels": 64,
        "precision": "float32", "scoring": {"num_reference": 100, "num_neighbours": 5, "min_class_rows": 20},
    },
    "redshift_vae": {
        "num_pixels": 200, "num_latent": 2, "hidden": (32, 16), "channels": (4, 6, 8), "wave_max_angstrom": 3759.2,
        "rest_wave_min_angstrom": 2400.0, "rest_wave_max_angstrom": 3800.0, "num_rest_pixels": 600,
        "precision": "float32", "learning_rate": 0.003,
        "scoring": {"num_reference": 100, "num_neighbours": 5, "min_class_rows": 20},
    },
    "band_gan": {
        "size": 24, "width": 8, "levels": 2, "discriminator_width": 8, "precision": "float32", "learning_rate": 0.003,
        "scoring": {
            "num_reference": 100, "num_neighbours": 5, "min_class_rows": 20, "num_latent": 3,
            "aperture_radius_arcsec": 0.25, "write_predicted": True,
        },
    },
    "unet_vae": {
        "size": 24, "width": 8, "levels": 2, "num_latent": 8, "skip_levels": (0, 1), "precision": "float32",
        "learning_rate": 0.003,
    },
    "disk_classifier": {
        "size": 24, "network_pixels": 17, "rotations": 4, "fields": (2, 3, 4), "halvings": (1, 2), "dropout": 0.1,
        "aperture_radius_arcsec": 0.25,
    },
    "restorer": {
        "size": 16, "num_channels": 1, "width": 8, "blocks": 1, "psf_size_px": 9, "noise_sigma": 0.3, "scale": 5.0,
        "learning_rate": 0.003, "augment": False,
    },
    "image_vae": IMAGES | TOLD | {"num_latent": 8, "learning_rate": 0.005},
    "image_alae": IMAGES | {"num_latent": 16, "mapping_layers": 2, "judge_layers": 2},
    "image_stylegan": IMAGES | TOLD | {"num_latent": 16, "mapping_layers": 2, "noise_inputs": True},
    "image_flow": IMAGES | TOLD | {"width": 16, "max_width": 32, "halvings": 1, "attention_pixels": 4, "steps": 4},
}  # fmt: skip
"""Settings that make each model small; a new model adds its own."""

SPECTYPES = np.array(["GALAXY", "QSO", "STAR", None], object)


def spectra(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Prepared spectra: smooth continua with noise and unusable pixels."""
    random = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {}
    for column in spec.reads(config):
        shape = (rows, column.length) if column.length else (rows,)
        if column.dtype == "string":
            batch[column.name] = SPECTYPES[random.integers(0, len(SPECTYPES), rows)]
        elif column.name == "z":
            batch[column.name] = random.uniform(0, 0.5, rows)
        elif column.name == "ivar":
            batch[column.name] = (100 * (random.random(shape) > 0.1)).astype(column.dtype)
        else:
            steps = random.normal(0, 0.1, shape).cumsum(-1) / np.sqrt(shape[-1]) * 3
            batch[column.name] = (1 + steps + random.normal(0, 0.1, shape)).astype(column.dtype)
    batch["flux"] = np.where(batch["ivar"] > 0, batch["flux"], 0).astype(np.float32)
    batch["z"][random.random(rows) < 0.1] = np.nan
    return batch | {"targetid": np.arange(rows) + 10**15}


def images(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Cutouts of simple galaxies in six bands."""
    return make_cutouts(rows, config.size, seed)


def pairs(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Cutouts as above, and their light."""
    light = make_cutouts(rows, config.size, seed, noise=1e-6)["science"]
    return make_cutouts(rows, config.size, seed) | {"clean": light}


def labelled_images(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Cutouts of toy disks and round galaxies, some of unknown class."""
    return make_disks(rows, config.size, seed, unknown=0.1)


def plain_images(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Images of simple galaxies."""
    return make_blobs(rows, config.size, seed)


def blobs(spec: ModelSpec, config, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Images of simple galaxies, with the conditions that a generator is told."""
    return make_blobs(rows, config.size, seed, config.conditions)


GENERATORS = ("image_vae", "image_alae", "image_stylegan", "image_flow")

ROWS_OF = {
    "spectral_vae": spectra,
    "redshift_vae": spectra,
    "band_gan": images,
    "unet_vae": pairs,
    "disk_classifier": labelled_images,
    "restorer": plain_images,
    **dict.fromkeys(GENERATORS, blobs),
}
"""What makes plausible rows of the columns that each model learns from; a new model adds its own."""

NO_PIXEL = {"science": 0, "error": 0, "mask": True}
UNUSABLE = dict.fromkeys(ROWS_OF, NO_PIXEL) | {
    "spectral_vae": {"flux": 0, "ivar": 0},
    "redshift_vae": {"flux": 0, "ivar": 0},
    **{name: {"image": np.nan} for name in ("restorer", *GENERATORS)},
}
"""Values of pixels that cannot be used."""

VERDICT = {
    "spectral_vae": "anomaly_score",
    "redshift_vae": "anomaly_score",
    "band_gan": "anomaly_score",
    "unet_vae": "denoised_fraction",
    "disk_classifier": "prob_disk",
    "restorer": "restoration_residual",
    **dict.fromkeys(GENERATORS, "reconstruction_error"),
    "image_stylegan": "discriminator_logit",
}
"""A column that is not a number where no pixel can be used."""

RECONSTRUCTED_PIXELS = {
    "spectral_vae": 200,
    "redshift_vae": 200,
    "band_gan": 3 * 24 * 24,
    "unet_vae": 6 * 24 * 24,
}


def small_config(spec: ModelSpec):
    return TypeAdapter(spec.config).validate_python(SMALL[spec.name])


def make_batch(spec: ModelSpec, config, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random but plausible rows of the columns that the model learns from."""
    batch = ROWS_OF[spec.name](spec, config, rows, seed)
    assert list(batch) == [column.name for column in spec.learns_from(config)]
    return batch


@pytest.fixture(params=list(MODELS))
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return MODELS[request.param]


@pytest.fixture
def config(spec: ModelSpec):
    return small_config(spec)


@pytest.fixture
def batch(spec: ModelSpec, config) -> dict[str, np.ndarray]:
    return make_batch(spec, config, 24)


def started(spec: ModelSpec, config, total_steps: int = 100, seed: int = 0):
    task = spec.task(config, seed)
    task.start(CPU, total_steps)
    return task


def predictor(spec: ModelSpec, config, seed: int = 0):
    torch.manual_seed(seed)
    module = spec.build(config)
    batches = [[make_batch(spec, config, 80, seed + i)] for i in (1, 2)]
    fitted = spec.fit(config, module, *batches)
    return spec.predictor(config, module, fitted, CPU), module, fitted


def rows(batch: Batch, index) -> dict[str, np.ndarray]:
    return {key: value[index] for key, value in batch.items()}


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


@pytest.mark.parametrize("num_rows", [0, 1, 130])
def test_predict_matches_its_schema(spec: ModelSpec, config, num_rows: int) -> None:
    predict, _, _ = predictor(spec, config)
    batch = make_batch(spec, config, num_rows, 5)
    out = predict({column.name: batch[column.name] for column in spec.reads(config)})
    columns = {column.name: column for column in spec.writes(config)}
    assert set(out) - {"flags"} == set(columns)
    for name, column in columns.items():
        assert out[name].dtype == column.dtype, name
        assert out[name].shape == ((num_rows, column.length) if column.length else (num_rows,)), name
        assert column.description, name
    known = sum(flag.value for flag in FLAGS)
    if "flags" in out:
        assert out["flags"].dtype == np.int32
        assert not (out["flags"] & ~known).any()


def test_predict_says_the_same_twice_and_in_any_order_or_batch(spec: ModelSpec, config) -> None:
    predict, _, _ = predictor(spec, config)
    batch = make_batch(spec, config, 70, 5)
    first = predict(batch)
    order = np.random.default_rng(0).permutation(70)
    shuffled, alone = predict(rows(batch, order)), predict(rows(batch, slice(3, 4)))
    for name, values in predict(batch).items():
        np.testing.assert_array_equal(values, first[name], err_msg=name)
        np.testing.assert_allclose(shuffled[name], values[order], rtol=1e-3, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(alone[name], values[3:4], rtol=1e-3, atol=1e-4, err_msg=name)


def test_predict_takes_read_only_arrays_and_leaves_its_input(spec: ModelSpec, config, batch) -> None:
    predict, _, _ = predictor(spec, config)
    before = {key: value.copy() for key, value in batch.items()}
    for value in batch.values():
        value.flags.writeable = False
    predict(batch)
    for key, value in batch.items():
        np.testing.assert_array_equal(value, before[key])


def test_row_without_a_usable_pixel_is_not_a_number_and_spoils_no_other(
    spec: ModelSpec, config, batch
) -> None:
    predict, _, _ = predictor(spec, config)
    wanted = predict(batch)
    for name, value in UNUSABLE[spec.name].items():
        batch[name][2] = value
    out = predict(batch)
    others = np.arange(24) != 2
    for name, values in out.items():
        np.testing.assert_allclose(values[others], wanted[name][others], rtol=1e-3, atol=1e-4, err_msg=name)
    assert np.isnan(out[VERDICT[spec.name]][2])
    assert out["flags"][2]
    task = started(spec, config)
    if spec.name in GENERATORS:  # what has no pixel can teach nothing: it must not reach a training
        with pytest.raises(ValueError, match="row 2"):
            task.step(batch, 0)
    else:
        assert np.isfinite(task.step(batch, 0)["loss"])


def test_saved_and_loaded_state_predicts_the_same(spec: ModelSpec, config, batch) -> None:
    predict, module, fitted = predictor(spec, config)
    stored = {name: value.numpy().copy() for name, value in module.state_dict().items()}
    torch.manual_seed(99)
    other = spec.build(config)
    other.load_state_dict({name: torch.from_numpy(value) for name, value in stored.items()})
    again = spec.predictor(config, other, fitted, CPU)
    for name, values in predict(batch).items():
        np.testing.assert_array_equal(again(batch)[name], values, err_msg=name)


def test_fitted_is_float_arrays_and_refused_when_missing(spec: ModelSpec, config) -> None:
    _, module, fitted = predictor(spec, config)
    assert all(value.dtype in (np.float32, np.int64) for value in fitted.values())
    for name in fitted:
        left = {key: value for key, value in fitted.items() if key != name}
        with pytest.raises(ValueError, match=name):
            spec.predictor(config, module, left, CPU)


def test_reconstruction_is_finite_with_a_positive_scatter(spec: ModelSpec, config, batch) -> None:
    if spec.reconstruct is None:
        pytest.skip("the model reconstructs nothing")
    out = spec.reconstruct(config, spec.build(config), batch)
    assert out["recon"].shape == out["sigma"].shape == (24, RECONSTRUCTED_PIXELS[spec.name])
    assert np.isfinite(out["recon"]).all()
    assert (out["sigma"] > 0).all()


def test_samples_can_be_trained_on_and_repeat(spec: ModelSpec, config, batch) -> None:
    if spec.sampler is None:
        pytest.skip("the model generates nothing")
    sampler = spec.sampler(config, spec.build(config), CPU)
    names = config.conditions
    condition = np.stack([batch[name] for name in names], 1) if names else None
    out = sampler.sample(np.arange(24), condition)
    assert out["latent"].shape == (24, sampler.num_latent)
    task = started(spec, config)
    assert np.isfinite(task.step({**batch, "image": out["image"]}, 0)["loss"])
    again = sampler.sample(np.arange(24), condition)
    for name, values in out.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def test_models_import_neither_ray_nor_pyarrow() -> None:
    # A bare GPU machine has neither. What only training needs is not imported to build a network that predicts.
    code = (
        "import sys, models; [spec.build(spec.config()) for spec in models.MODELS.values()]; "
        "print([m for m in ('ray', 'pyarrow', 'astropy', 'pydantic', 'fsspec', 'escnn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
