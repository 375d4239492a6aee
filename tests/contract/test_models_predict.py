"""What every registered model keeps when it predicts, reconstructs and generates: one suite over the registry."""

import numpy as np
import pytest
import torch

from engine.flags import FLAGS
from models.spec import Batch, ModelSpec
from tests.smallmodels import (
    CPU,
    GENERATORS,
    RECONSTRUCTED_PIXELS,
    UNUSABLE,
    VERDICT,
    make_batch,
    predictor,
    started,
)

RECORDS = {"temperature_halves"}
"""Arrays that tell of a fit; checkpoints from before lack them, and nothing is predicted by them."""


def rows(batch: Batch, index) -> dict[str, np.ndarray]:
    return {key: value[index] for key, value in batch.items()}


@pytest.mark.parametrize("num_rows", [0, 1, 130])
def test_predict_matches_its_schema(spec: ModelSpec, config, num_rows: int) -> None:
    predict, _, _ = predictor(spec.name)
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
    predict, _, _ = predictor(spec.name)
    batch = make_batch(spec, config, 70, 5)
    first = predict(batch)
    order = np.random.default_rng(0).permutation(70)
    shuffled, alone = predict(rows(batch, order)), predict(rows(batch, slice(3, 4)))
    for name, values in predict(batch).items():
        np.testing.assert_array_equal(values, first[name], err_msg=name)
        np.testing.assert_allclose(shuffled[name], values[order], rtol=1e-3, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(alone[name], values[3:4], rtol=1e-3, atol=1e-4, err_msg=name)


def test_predict_takes_read_only_arrays_and_leaves_its_input(spec: ModelSpec, config, batch) -> None:
    predict, _, _ = predictor(spec.name)
    before = {key: value.copy() for key, value in batch.items()}
    for value in batch.values():
        value.flags.writeable = False
    predict(batch)
    for key, value in batch.items():
        np.testing.assert_array_equal(value, before[key])


def test_row_without_a_usable_pixel_is_not_a_number_and_spoils_no_other(
    spec: ModelSpec, config, batch
) -> None:
    predict, _, _ = predictor(spec.name)
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
    predict, module, fitted = predictor(spec.name)
    stored = {name: value.numpy().copy() for name, value in module.state_dict().items()}
    torch.manual_seed(99)
    other = spec.build(config)
    other.load_state_dict({name: torch.from_numpy(value) for name, value in stored.items()})
    again = spec.predictor(config, other, fitted, CPU)
    for name, values in predict(batch).items():
        np.testing.assert_array_equal(again(batch)[name], values, err_msg=name)


def test_fitted_is_float_arrays_and_refused_when_missing(spec: ModelSpec, config) -> None:
    _, module, fitted = predictor(spec.name)
    assert all(value.dtype in (np.float32, np.int64) for value in fitted.values())
    for name in fitted.keys() - RECORDS:
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
