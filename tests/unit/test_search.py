"""Spaces of settings, their points, and what `tune` refuses before it starts."""

import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from engine import tune
from engine.config import validate
from engine.errors import ConfigError, EngineError
from engine.search import Range, TuneConfig, points
from engine.storage import Storage
from engine.train.plan import TrainConfig, TrainData, run_name
from engine.train.state import Progress, RunState, save_state
from engine.tune import Trial, TrialResult, best_of, objective_of, outcome
from engine.units import FileRef
from jobs.__main__ import main
from jobs.toml_text import to_toml
from jobs.tune import table

STUDY = {"num_trials": 1, "space": {"train.epochs": {"choice": [3]}}}
CONFIG = """
[staged]
uri = "nowhere"
[model.settings]
hidden = [16]
[tune]
num_trials = 4
[tune.space]
"""


def test_points_are_within_their_ranges_and_spread():
    space = {
        "a": Range(uniform=(2.0, 3.0)), "b": Range(log_uniform=(1e-4, 1e-2)),
        "c": Range(integer=(3, 6)), "d": Range(choice=["x", "y"]),
    }  # fmt: skip
    found = points(space, 64, seed=3)
    values = {name: [point[name] for point in found] for name in space}
    assert all(2 <= a < 3 for a in values["a"])
    assert np.mean(np.log10(values["b"])) == pytest.approx(-3, abs=0.1)
    assert sorted(set(values["c"])) == [3, 4, 5, 6]
    assert 24 <= values["d"].count("x") <= 40
    assert np.histogram(values["a"], 8, (2, 3))[0].min() >= 5  # independent draws leave a bin nearly empty


def test_fewer_points_are_the_first_of_more_and_a_seed_gives_others():
    space = {"a": Range(uniform=(0.0, 1.0)), "b": Range(integer=(0, 9))}
    assert points(space, 5, seed=1) == points(space, 20, seed=1)[:5]
    assert points(space, 5, seed=1) != points(space, 5, seed=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of uniform, log_uniform, integer, choice must be given, not none"),
        ({"uniform": [0, 1], "choice": [1]}, "not choice, uniform"),
        ({"uniform": [1, 1]}, "the first bound must be below the second"),
        ({"log_uniform": [0, 1]}, "bounds must be above 0"),
        ({"integer": [1.5, 2]}, "integer"),
        ({"choice": []}, "choice"),
        ({"loguniform": [1, 2]}, "did you mean 'log_uniform'"),
    ],
)
def test_ranges_that_mean_nothing_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        validate(TuneConfig, {"space": {"model.settings.beta": given}}, "t.toml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"model.settings.learning_rat" = {uniform = [0.1, 0.2]}', "learning_rat"),
        ('"model.settings.learning_rate" = {uniform = [-1, 1]}', r"learning_rate: cannot be -1"),
        ('"model.settings.num_latent" = {choice = [10, 100]}', r"num_latent: cannot be 100"),
        ('"train.epoch" = {choice = [1]}', "did you mean 'epochs'"),
        ('"output.uri" = {choice = ["x"]}', r"cannot be tried; expected model.settings"),
        ("", "space: required"),
    ],
)
def test_settings_that_there_are_not_are_refused_before_anything_runs(tmp_path: Path, capsys, line, message):
    file = tmp_path / "study.toml"
    file.write_text(CONFIG + line if line else CONFIG.replace("[tune.space]", ""))
    assert main(["tune", str(file), "--plan"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_plan_lists_the_points(tmp_path: Path, capsys):
    file = tmp_path / "study.toml"
    file.write_text(CONFIG + '"model.settings.beta" = {uniform = [0.5, 2]}')
    assert main(["tune", str(file), "--plan"]) == 0
    assert capsys.readouterr().out.count("model.settings.beta = ") == 4


def result(number: int, objective: float, error: str = "") -> TrialResult:
    status = "failed" if error else "finished"
    return TrialResult(
        number, {"train.epochs": 3, "model.settings.beta": 0.5}, objective, 2, 3, status, error, "abc"
    )


def test_the_table_has_the_best_first_and_says_what_failed():
    lines = table([result(0, 2.0), result(1, math.nan, "loss is nan"), result(2, 1.0)], "val_loss")
    assert [line.split()[0] for line in lines] == ["trial", "2", "0", "1", "trial"]
    assert lines[-1] == "trial 1 failed: loss is nan"
    assert len({len(line) for line in lines[:-1]}) == 1


def test_the_best_is_the_smallest_and_there_may_be_none():
    assert best_of([result(0, 2.0), result(1, math.nan, "x"), result(2, 1.0)]).number == 2
    with pytest.raises(EngineError, match=r"no trial has a result.*loss is nan"):
        best_of([result(0, math.nan, "loss is nan")])


def test_a_metric_may_be_a_sum_and_must_be_there():
    assert objective_of({"val_nll": 1.0, "val_kl": 0.25}, "val_nll + val_kl") == 1.25
    with pytest.raises(ConfigError, match=r"no such metric.*val_los.*val_loss"):
        objective_of({"val_loss": 1.0}, "val_los")


def test_toml_is_what_tomllib_reads():
    tree = {
        "seed": 1, "name": 'a "quoted" \\ line\nand é\x7f', "rate": 1e-05, "on": True, "none": None,
        "empty": {}, "list": [1, 2], "texts": ["a", "b"],
        "section": {"deep": {"x.y": 0.1, "places": [{"uri": "s3://a", "none": None}, {"uri": "b", "n": {"k": [1.5]}}]}},
    }  # fmt: skip
    read = tomllib.loads(to_toml(tree))
    del tree["none"]
    del tree["section"]["deep"]["places"][0]["none"]  # pyright: ignore
    assert read == tree
    with pytest.raises(TypeError, match="TOML has no set"):
        to_toml({"a": {1}})


def stored(folder: Path, history: list[float], epochs: int) -> Trial:
    """A trial whose run has these losses on record."""
    file = FileRef(f"{folder}/a.parquet", 1, "f")
    trial = Trial(
        0, {}, lambda: None, TrainData((file,), 400, ("flux",)), TrainConfig(epochs=epochs), {"model": "m"}
    )
    progress = Progress()
    for loss in history:
        progress = progress.after_epoch({"val_loss": loss}, 1, [], 0, 0.0)
    if history:
        run_uri = Storage.join(str(folder), run_name(trial.data, trial.config, trial.identity))
        save_state(RunState(progress, {}, {}), run_uri, Storage(), 2)
    return trial


@pytest.mark.parametrize(
    ("history", "epochs", "status", "objective", "epoch"),
    [
        ([3.0, 1.0, 2.0], 3, "finished", 1.0, 2),
        ([3.0, 2.0], 3, "stopped", 2.0, 2),
        ([], 3, "stopped", math.nan, 0),
        ([math.nan], 3, "failed", math.nan, 0),
    ],
)
def test_what_became_of_a_trial_is_what_its_run_has_on_record(
    tmp_path, history, epochs, status, objective, epoch
):
    found = outcome(stored(tmp_path, history, epochs), "val_loss", str(tmp_path), Storage(), "")
    assert (found.status, found.epoch, found.epochs) == (status, epoch, len(history))
    assert found.objective == pytest.approx(objective, nan_ok=True)
    assert ("loss is nan" in found.error) == (status == "failed")


def test_a_trial_that_failed_says_why(tmp_path):
    found = outcome(
        stored(tmp_path, [2.0], 3), "val_loss", str(tmp_path), Storage(), "Traceback\n  ...\nValueError: no\n"
    )
    assert (found.status, found.error, found.objective) == ("failed", "ValueError: no", 2.0)


def test_trials_write_where_the_study_reads_whatever_folder_tune_gives_them(tmp_path, monkeypatch):
    def see(work, **parameters):
        raise LookupError(parameters["runs_uri"])

    monkeypatch.setattr(tune.tune, "with_parameters", see)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LookupError, match=f"^{re.escape(str(tmp_path))}/staged/runs$"):
        tune.study([stored(tmp_path, [], 3)], TuneConfig.model_validate(STUDY), "staged/runs", Storage())
