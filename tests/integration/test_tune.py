"""A study of settings: trials on Ray Tune over Ray Train, gone on with, and the best taken by `train` as it is."""

import json
import tomllib
from pathlib import Path

import pytest

from engine.storage import Storage
from engine.train.state import stored_epochs
from jobs.__main__ import main
from tests.stagedspectra import stage_spectra

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_session"),
    # Ray's own, as in `test_train`.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning",
        "ignore::DeprecationWarning",
        "ignore::FutureWarning",
        "ignore::UserWarning",
    ),
]

CONFIG = """
[staged]
uri = "FOLDER/staged"
[model.settings]
num_pixels = 200
hidden = [16]
num_latent = 2
[train]
epochs = 3
validation_fraction = 0.3
global_batch_rows = 64
[checkpoint]
uri = "FOLDER/checkpoint"
[tune]
num_trials = 2
metric = "val_nll + val_kl"
grace_epochs = 1
reduction_factor = 2
best = "FOLDER/best.toml"
[tune.space]
"model.settings.learning_rate" = { log_uniform = [1e-5, 3e-2] }
"model.settings.beta" = { choice = [0.5, 1.0] }
"""


def run(capsys: pytest.CaptureFixture[str], *line: str) -> dict:
    capsys.readouterr()
    assert main([*line, "--json"]) == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_a_study_finds_settings_goes_on_and_is_trained_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "study.toml"
    config.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    stage_spectra(tmp_path / "staged", num_files=2)
    first = run(capsys, "tune", str(config))
    trials = first["trials"]
    assert [trial["number"] for trial in trials] == [0, 1]
    assert all(trial["status"] in ("finished", "stopped") and trial["epochs"] >= 1 for trial in trials)
    best = min(trials, key=lambda trial: trial["objective"])
    assert (first["best"], first["objective"]) == (best["number"], best["objective"])
    assert trials[0]["status"] == "finished"  # nobody was there to compare it with

    written = tomllib.loads((tmp_path / "best.toml").read_text())
    assert "tune" not in written
    assert written["model"]["settings"] == {"num_pixels": 200, "hidden": [16], "num_latent": 2} | {
        name.rpartition(".")[2]: value for name, value in best["values"].items()
    }

    again = run(capsys, "tune", str(config))
    assert [(t["run_id"], t["epochs"]) for t in again["trials"]] == [
        (t["run_id"], t["epochs"]) for t in trials
    ]

    trained = run(capsys, "train", str(tmp_path / "best.toml"))
    assert trained["metrics"]["val_nll"] + trained["metrics"]["val_kl"] <= best["objective"] * (1 + 1e-6) or (
        best["epoch"] != trained["metrics"]["epoch"]
    )
    runs = f"{tmp_path}/staged/runs/{best['run_id']}"
    assert stored_epochs(runs, Storage())[-1] == 3  # its run was gone on with, or was done
