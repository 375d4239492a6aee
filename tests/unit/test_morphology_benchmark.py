"""The comparison of disk classifiers: what is trained on, what is kept between runs, and its tables."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks import morphology
from benchmarks.morphology import (
    CONDITIONS,
    DENOISED,
    KINDS,
    MEASURES,
    RAW,
    configs,
    report,
    run,
    settings_of,
)


def arguments(folder: Path, **settings: Any) -> argparse.Namespace:
    told = {"folder": folder, "networks": ["plain CNN"], "seeds": 2, "fields": 1, "steps": 3, "batch_rows": 4}
    return argparse.Namespace(**(told | settings))


def measured(value: float) -> dict[str, Any]:
    return {"parameters": 1234, "tests": {name: dict.fromkeys(MEASURES, value) for name in CONDITIONS}}


def test_each_arm_is_trained_on_its_own_images_alone() -> None:
    for name in configs(False):
        assert not configs(False)[name].use_denoised
        assert configs(True)[name].use_denoised
        assert configs(True)[name].denoised_share == 1.0


def test_trainings_are_kept_and_those_with_other_settings_are_not_taken_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, str, int]] = []

    def train(args: argparse.Namespace, name: str, kind: str, seed: int, drawn: Any) -> dict[str, Any]:
        if len(trained) == 3 and not tmp_path.joinpath("again").exists():
            tmp_path.joinpath("again").touch()
            raise KeyboardInterrupt
        trained.append((name, kind, seed))
        return measured(0.5 + 0.25 * (kind == DENOISED) * (seed + 1))

    monkeypatch.setattr(morphology, "trained_and_measured", train)
    args = arguments(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(args, tuple, "denoiser")
    found = run(args, tuple, "denoiser")
    assert trained == [("plain CNN", kind, seed) for kind in KINDS for seed in (0, 1)]
    assert [one["auroc"] for one in found["plain CNN"][DENOISED]["S/N 5"]] == [0.75, 1.0]
    run(arguments(tmp_path, steps=4), tuple, "denoiser")
    run(args, tuple, "another denoiser")
    assert len(trained) == 12


def test_settings_tell_all_arms_apart(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    arms = [(name, kind, seed) for name in configs(False) for kind in KINDS for seed in (0, 1)]
    told = [settings_of(args, *arm, "denoiser") for arm in arms]
    assert all(told.count(one) == 1 for one in told)


def test_tables_are_markdown_with_gains_by_seed() -> None:
    kinds = {
        RAW: {name: [dict.fromkeys(MEASURES, value) for value in (0.5, 0.75)] for name in CONDITIONS},
        DENOISED: {name: [dict.fromkeys(MEASURES, value) for value in (0.625, 0.875)] for name in CONDITIONS},
    }
    lines = report({"plain CNN": {"parameters": 1234} | kinds})
    assert lines[2] == "| network | parameters | images | clean | S/N 10 | S/N 5 | S/N 3 |"
    assert lines[3].count("---") == 7
    assert lines[4].startswith("| plain CNN | 1,234 | raw | 0.625 ± 1.588 |")
    assert lines[5].startswith("| plain CNN | 1,234 | denoised | 0.750 ± 1.588 |")
    assert "| plain CNN | +0.125 ± 0.000 | +0.125 ± 0.000 | +0.125 ± 0.000 | +0.125 ± 0.000 |" in lines
    assert sum(line.endswith(":") for line in lines) == 2 * len(MEASURES)
