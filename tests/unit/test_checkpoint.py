import dataclasses
import json

import numpy as np
import pytest

from engine.checkpoint import Checkpoint, check_shapes, load, read_header, save
from engine.errors import CheckpointError
from engine.storage import Storage

STORAGE = Storage()


def make_checkpoint(**changes) -> Checkpoint:
    rng = np.random.default_rng(1)
    weights = {
        "layer.weight": rng.normal(size=(4, 3)).astype(np.float32).T,  # not contiguous, as after .numpy()
        "num_batches": np.array(7, np.int64),
    }
    fitted = {"sample": rng.normal(size=(5, 2)), "limits": np.array([np.nan, np.inf])}
    checkpoint = Checkpoint(
        "toy", 3, {"widths": [4, 3]}, {"frame": "observed"}, weights, fitted,
        {"val_loss": np.float32(0.5)}, [{"val_loss": float("nan")}], {"command": "train"},
    )  # fmt: skip
    return dataclasses.replace(checkpoint, **changes)


@pytest.fixture
def uri(tmp_path) -> str:
    return str(tmp_path / "checkpoint")


def edit(uri: str, **changes) -> None:
    header = json.loads(STORAGE.read(f"{uri}/checkpoint.json"))
    STORAGE.put(f"{uri}/checkpoint.json", json.dumps(header | changes).encode())


def test_a_checkpoint_comes_back_as_it_was(uri):
    before = make_checkpoint()
    save(before, uri, STORAGE)
    after = load(uri, STORAGE, "toy", 3)
    assert after.id == before.id
    assert after.config == before.config
    assert after.history == [{"val_loss": None}]
    for ours, theirs in ((before.weights, after.weights), (before.fitted, after.fitted)):
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            assert theirs[name].dtype == array.dtype
            np.testing.assert_array_equal(theirs[name], array)
    assert after.weights["num_batches"].shape == ()


def test_half_precision_weights_come_back_rounded_and_with_their_own_id(uri):
    before = make_checkpoint()
    saved = save(before, uri, STORAGE, weights_dtype="float16")
    after = load(uri, STORAGE)
    assert after.id == saved.id != before.id
    assert after.weights["layer.weight"].dtype == np.float32
    np.testing.assert_allclose(after.weights["layer.weight"], before.weights["layer.weight"], rtol=1e-3)


@pytest.mark.parametrize("change", ["model_version", "config", "prepare", "weights", "fitted"])
def test_id_follows_what_changes_results(change):
    values = {"model_version": 4, "config": {}, "prepare": {}, "weights": {}, "fitted": {}}
    assert make_checkpoint(**{change: values[change]}).id != make_checkpoint().id


def test_id_ignores_what_is_for_people():
    assert make_checkpoint(provenance={}, history=[], metrics={}).id == make_checkpoint().id


def test_header_is_enough_to_plan(uri):
    checkpoint = save(make_checkpoint(), uri, STORAGE)
    STORAGE.delete(f"{uri}/weights.safetensors")
    header = read_header(uri, STORAGE, "toy", 3)
    assert (header.id, header.config) == (checkpoint.id, checkpoint.config)


@pytest.mark.parametrize(
    ("model", "version", "message"),
    [("vae", 3, "of another model; got toy; expected vae"), ("toy", 4, "another version of 'toy'; got 3")],
)
def test_another_model_is_refused(uri, model, version, message):
    save(make_checkpoint(), uri, STORAGE)
    with pytest.raises(CheckpointError, match=message):
        load(uri, STORAGE, model, version)


def test_a_folder_without_json_is_no_checkpoint(uri):
    save(make_checkpoint(), uri, STORAGE)
    STORAGE.delete(f"{uri}/checkpoint.json")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        load(uri, STORAGE)


@pytest.mark.parametrize("name", ["weights.safetensors", "fitted.safetensors"])
def test_a_damaged_file_is_refused(uri, name):
    save(make_checkpoint(), uri, STORAGE)
    data = bytearray(STORAGE.read(f"{uri}/{name}"))
    data[-1] ^= 1
    STORAGE.put(f"{uri}/{name}", bytes(data))
    with pytest.raises(CheckpointError, match="checksum differs"):
        load(uri, STORAGE)
    STORAGE.put(f"{uri}/{name}", bytes(data[:-1]))
    with pytest.raises(CheckpointError, match="another size"):
        load(uri, STORAGE)
    STORAGE.delete(f"{uri}/{name}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(uri, STORAGE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "unknown checkpoint format; got 2; expected 1"),
        ({"config": {"widths": [9]}}, "content does not match its id"),
        ({"surprise": 1}, "surprise: unknown key"),
        ({"model": None}, "model: Input should be a valid string"),
        ({"files": {"../../etc/passwd": {"size": 1, "sha256": ""}}}, "other files than a checkpoint has"),
        ({"files": {}}, "other files than a checkpoint has"),
    ],
)
def test_json_that_was_tampered_with_is_refused(uri, changes, message):
    save(make_checkpoint(), uri, STORAGE)
    edit(uri, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(uri, STORAGE)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe"])
def test_json_that_is_none_is_refused(uri, text):
    save(make_checkpoint(), uri, STORAGE)
    STORAGE.put(f"{uri}/checkpoint.json", text)
    with pytest.raises(CheckpointError, match=r"is not JSON|is not a JSON object"):
        load(uri, STORAGE)


def test_a_pickle_in_place_of_weights_is_never_opened(uri):
    import hashlib
    import pickle

    save(make_checkpoint(), uri, STORAGE)
    data = pickle.dumps({"weight": [1.0]})
    STORAGE.put(f"{uri}/weights.safetensors", data)
    files = json.loads(STORAGE.read(f"{uri}/checkpoint.json"))["files"]
    files["weights.safetensors"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(uri, files=files)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load(uri, STORAGE)


def test_weights_that_are_not_finite_are_not_saved(uri):
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        save(make_checkpoint(weights={"w": np.array([np.nan])}), uri, STORAGE)
    with pytest.raises(CheckpointError, match="float16"):
        save(make_checkpoint(weights={"w": np.array([1e6])}), uri, STORAGE, weights_dtype="float16")


def test_saving_again_replaces_the_checkpoint(uri):
    save(make_checkpoint(), uri, STORAGE)
    changed = save(make_checkpoint(config={"widths": [5]}), uri, STORAGE)
    assert load(uri, STORAGE).id == changed.id


def test_weights_that_do_not_fit_the_module_are_named():
    weights = {"a": np.zeros(3), "b": np.zeros((2, 2)), "extra": np.zeros(1)}
    check_shapes({"a": np.zeros(3)}, {"a": (3,)}, "here")
    with pytest.raises(CheckpointError, match=r"c is missing; extra is unknown; b is \(2, 2\), not \(4,\)"):
        check_shapes(weights, {"a": (3,), "b": (4,), "c": ()}, "here")
