import dataclasses
import json

import pytest
import torch

from engine.errors import CheckpointError, EngineError
from engine.storage import Storage
from engine.train.state import Progress, RunState, load_state, save_state, stored_epochs, to_numpy


def make_state() -> RunState:
    shared = torch.arange(6.0).reshape(2, 3)
    task = {"net": {"layer.weight": shared, "tied": shared.T}, "adam": {"0": {"step": torch.tensor(3)}}}
    progress = Progress(
        epoch=2, step=9, best_loss=0.25, best_epoch=1, history=[{"loss": 1.0}], step_losses=[2.0]
    )
    return RunState(progress, task, {"layer.weight": shared + 1})


def test_state_comes_back_as_it_was(tmp_path):
    before = make_state()
    save_state(before, str(tmp_path), Storage(), 1)
    after = load_state(str(tmp_path), Storage(), 2)
    assert after.progress == before.progress
    assert after.task.keys() == before.task.keys()
    assert torch.equal(after.task["net"]["tied"], before.task["net"]["tied"])
    assert torch.equal(after.task["adam"]["0"]["step"], torch.tensor(3))
    assert torch.equal(after.best["layer.weight"], before.best["layer.weight"])


def test_nothing_but_tensors_is_stored(tmp_path):
    state = make_state()
    state.task["adam"]["lr"] = 0.1
    with pytest.raises(TypeError, match="holds a float at 'lr'"):
        save_state(state, str(tmp_path), Storage(), 1)


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_damaged_state_is_refused(tmp_path, name):
    save_state(make_state(), str(tmp_path), Storage(), 1)
    (tmp_path / "states" / "000002" / name).write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(CheckpointError, match="Remove the folder to go on from an earlier state"):
        load_state(str(tmp_path), Storage(), 2)


def test_only_whole_states_count_and_only_the_newest_stay(tmp_path):
    for epoch in range(1, 5):
        state = make_state()
        state.progress = dataclasses.replace(state.progress, epoch=epoch)
        save_state(state, str(tmp_path), Storage(), 2)
    assert stored_epochs(str(tmp_path), Storage()) == [3, 4]
    assert not (tmp_path / "states" / "000002" / "state.safetensors").exists()
    torn = tmp_path / "states" / "000005"  # killed between the two files
    torn.mkdir()
    (torn / "state.safetensors").write_bytes(b"half")
    assert stored_epochs(str(tmp_path), Storage()) == [3, 4]
    assert load_state(str(tmp_path), Storage(), 4).progress.epoch == 4


def test_a_run_that_has_not_begun_has_no_state(tmp_path):
    assert stored_epochs(str(tmp_path / "nothing"), Storage()) == []


def test_unknown_keys_are_refused(tmp_path):
    save_state(make_state(), str(tmp_path), Storage(), 1)
    path = tmp_path / "states" / "000002" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"surprise": 1}))
    with pytest.raises(CheckpointError, match="surprise"):
        load_state(str(tmp_path), Storage(), 2)


def test_floats_become_float32_and_the_rest_stays():
    arrays = to_numpy({"w": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(1 << 60)})
    assert (str(arrays["w"].dtype), int(arrays["n"])) == ("float32", 1 << 60)


def after(losses: list[float], patience: int = 0, min_delta: float = 0.0, name: str = "val_loss") -> Progress:
    """Progress after epochs of these losses, or after the one that stops."""
    progress = Progress()
    for number, loss in enumerate(losses):
        if progress.stopped:
            break
        metrics = {"train_loss": 9.0 - number, name: loss}
        progress = progress.after_epoch(metrics, 5 * (number + 1), [loss] * 5, patience, min_delta)
    return progress


def test_epochs_add_up_and_the_best_is_kept():
    progress = after([3.0, 1.0, 2.0])
    assert (progress.epoch, progress.step, len(progress.step_losses)) == (3, 15, 15)
    assert (progress.best_loss, progress.best_epoch, progress.stopped) == (1.0, 2, "")
    assert [entry["epoch"] for entry in progress.history] == [1.0, 2.0, 3.0]
    best = {"epoch": 2.0, "step": 10.0, "train_loss": 8.0, "val_loss": 1.0}
    assert progress.best_metrics("run x") == best


def test_an_epoch_does_not_change_what_was_before():
    before = Progress()
    before.after_epoch({"train_loss": 1.0}, 5, [1.0], 0, 0.0)
    assert before == Progress()


def test_run_stops_after_so_many_epochs_without_gain_in_a_row():
    progress = after([3.0, 2.0, 2.5, 1.0, 1.5, 1.0, 0.5], patience=2)
    assert (progress.epoch, progress.best_epoch) == (6, 4)
    assert progress.stopped == "no gain in 2 epochs"
    assert after([3.0] * 50).stopped == ""


def test_small_decreases_are_no_gain_but_the_smallest_loss_is_best():
    progress = after([1.0, 0.99, 0.98, 0.97], patience=3, min_delta=0.05)
    assert progress.stopped == "no gain in 3 epochs"
    assert (progress.best_epoch, progress.best_loss) == (4, 0.97)
    assert after([1.0, 0.9, 0.8, 0.7], patience=1, min_delta=0.05).stopped == ""


def test_no_epoch_is_chosen_by_the_training_loss_where_rows_are_held_out():
    metrics = {"train_loss": 1.0, "val_discriminator": 0.7}
    with pytest.raises(EngineError, match=r"no loss to choose the best epoch by; got val_discriminator"):
        Progress().after_epoch(metrics, 1, [1.0], 0, 0.0)


def test_training_loss_is_monitored_where_nothing_is_held_out():
    progress = after([4.0, 2.0], name="train_loss")
    assert (progress.best_loss, progress.best_epoch) == (2.0, 2)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_loss_that_is_not_finite_stops_the_run_and_is_never_best(loss):
    progress = after([1.0, loss, 0.5])
    assert (progress.epoch, progress.best_epoch) == (2, 1)
    assert progress.stopped == f"loss is {loss} in epoch 2"


def test_run_without_a_finite_loss_has_diverged():
    with pytest.raises(EngineError, match="run x: training diverged: the loss was never finite"):
        after([float("nan")]).best_metrics("run x")
    with pytest.raises(EngineError, match="diverged"):
        Progress().after_epoch({}, 0, [], 0, 0.0).best_metrics("run x")
