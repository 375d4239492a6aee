"""A study can be planned of every registered model."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from jobs.__main__ import main
from jobs.toml_text import to_toml
from models import MODELS
from tests.smallmodels import SMALL, small_config

TRIED = ("learning_rate", "dropout")


@pytest.mark.parametrize("name", MODELS)
def test_a_study_of_any_model_is_planned(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small_config(MODELS[name])
    tried = next(field for field in TRIED if field in {one.name for one in fields(settings)})
    value = getattr(settings, tried)
    space = {
        f"model.settings.{tried}": {"uniform": [value / 2, value]},
        "train.global_batch_rows": {"choice": [32, 64]},
    }
    tree = {
        "staged": {"uri": str(tmp_path / "staged")},
        "model": {"name": name, "settings": SMALL[name]},
        "tune": {"num_trials": 3, "best": str(tmp_path / "best.toml"), "space": space},
    }
    config = tmp_path / "study.toml"
    config.write_text(to_toml(tree))
    assert main(["tune", str(config), "--plan", "--json"]) == 0
    trials = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["trials"]
    assert len(trials) == 3
    assert all(value / 2 <= trial[f"model.settings.{tried}"] <= value for trial in trials)
    assert all(trial["train.global_batch_rows"] in (32, 64) for trial in trials)
    assert list(tmp_path.iterdir()) == [config], "a plan writes nothing"
