import json

import pytest
import torch

from engine.errors import CheckpointError
from engine.train.state import Progress, RunState, load_state, save_state, to_numpy


def make_state() -> RunState:
    shared = torch.arange(6.0).reshape(2, 3)
    task = {"net": {"layer.weight": shared, "tied": shared.T}, "adam": {"0": {"step": torch.tensor(3)}}}
    progress = Progress(
        epoch=2, step=9, best_loss=0.25, best_epoch=1, history=[{"loss": 1.0}], step_losses=[2.0]
    )
    return RunState(progress, task, {"layer.weight": shared + 1})


def test_state_comes_back_as_it_was(tmp_path):
    before = make_state()
    save_state(before, tmp_path)
    after = load_state(tmp_path)
    assert after.progress == before.progress
    assert after.task.keys() == before.task.keys()
    assert torch.equal(after.task["net"]["tied"], before.task["net"]["tied"])
    assert torch.equal(after.task["adam"]["0"]["step"], torch.tensor(3))
    assert torch.equal(after.best["layer.weight"], before.best["layer.weight"])


def test_nothing_but_tensors_is_stored(tmp_path):
    state = make_state()
    state.task["adam"]["lr"] = 0.1
    with pytest.raises(TypeError, match="holds a float at 'lr'"):
        save_state(state, tmp_path)


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_damaged_state_is_refused(tmp_path, name):
    save_state(make_state(), tmp_path)
    (tmp_path / name).write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(CheckpointError, match="Remove the run's folder"):
        load_state(tmp_path)


def test_unknown_keys_are_refused(tmp_path):
    save_state(make_state(), tmp_path)
    path = tmp_path / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"surprise": 1}))
    with pytest.raises(CheckpointError, match="surprise"):
        load_state(tmp_path)


def test_floats_become_float32_and_the_rest_stays():
    arrays = to_numpy({"w": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(1 << 60)})
    assert (str(arrays["w"].dtype), int(arrays["n"])) == ("float32", 1 << 60)
