"""The comparison of disk classifiers: what is trained on, what is kept between runs, and its tables."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import morphology, morphology_report
from benchmarks.morphology import CONDITIONS, FAR, configs, run, settings_of, steps_of
from benchmarks.morphology_report import (
    DENOISED,
    KINDS,
    RAW,
    Network,
    Verdicts,
    measures,
    report,
    sampled,
    shown,
    titles,
)

LABEL = np.arange(60) % 2
IS_FAR = np.arange(60) < 40


def arguments(folder: Path, **settings: Any) -> argparse.Namespace:
    told = {
        "folder": folder, "networks": ["plain CNN"], "seeds": 2, "fields": 1, "steps": 3, "batch_rows": 4,
        "gcnn_rate": 0.0,
    }  # fmt: skip
    return argparse.Namespace(**(told | settings))


def odds(seeds: int, signal: float, rng_seed: int = 0) -> np.ndarray:
    """Log odds [S, C, N] of classes that a network tells apart by a signal over noise of 1."""
    noise = np.random.default_rng(rng_seed).normal(size=(seeds, len(CONDITIONS), 60))
    return signal * (2 * LABEL - 1) + noise


def network(seeds: int, raw: float, denoised: float) -> Network:
    kinds = {
        kind: Verdicts(odds(seeds, signal, place), np.ones(seeds), LABEL, IS_FAR)
        for place, (kind, signal) in enumerate({RAW: raw, DENOISED: denoised}.items())
    }
    return Network(1234, kinds)


def test_each_arm_is_trained_on_its_own_images_alone() -> None:
    for name in configs(False):
        assert not configs(False)[name].use_denoised
        assert configs(True)[name].use_denoised
        assert configs(True)[name].denoised_share == 1.0


def test_trainings_are_kept_and_those_with_other_settings_are_not_taken_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, str, int]] = []

    def train(args: argparse.Namespace, name: str, kind: str, seed: int, drawn: Any) -> dict[str, np.ndarray]:
        if len(trained) == 3 and not tmp_path.joinpath("again").exists():
            tmp_path.joinpath("again").touch()
            raise KeyboardInterrupt
        trained.append((name, kind, seed))
        values = {"odds": odds(1, 1.0, seed)[0], "temperature": np.array(1.0 + seed)}
        return values | {"label": LABEL, "is_far": IS_FAR, "parameters": np.array(1234)}

    monkeypatch.setattr(morphology, "trained_and_judged", train)
    args = arguments(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(args, tuple, "denoiser")
    found = run(args, tuple, "denoiser")
    assert trained == [("plain CNN", kind, seed) for kind in KINDS for seed in (0, 1)]
    verdicts = found["plain CNN"].kinds[DENOISED]
    np.testing.assert_array_equal(verdicts.odds, np.concatenate([odds(1, 1.0, 0), odds(1, 1.0, 1)]))
    assert verdicts.temperature.tolist() == [1.0, 2.0]
    run(arguments(tmp_path, steps=4), tuple, "denoiser")
    assert len(trained) == 8
    run(args, tuple, "another denoiser")
    assert trained[8:] == [("plain CNN", DENOISED, seed) for seed in (0, 1)], (
        "raw images have seen no denoiser"
    )


def test_settings_tell_all_arms_apart(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    arms = [(name, kind, seed) for name in configs(False) for kind in KINDS for seed in (0, 1)]
    told = [settings_of(args, *arm, "denoiser") for arm in arms]
    assert all(told.count(one) == 1 for one in told)


def test_group_networks_may_have_a_rate_of_their_own_and_convnexts_have_steps(tmp_path: Path) -> None:
    args = arguments(tmp_path, steps=10, gcnn_rate=0.01)
    assert {name: steps_of(args, name) for name in configs(False)} == {
        "plain CNN": 10, "ConvNeXt": 12, "ConvNeXt-nano": 8, "GCNN N=8": 10, "GCNN N=16": 10,
    }  # fmt: skip
    before = settings_of(arguments(tmp_path, steps=10), "GCNN N=8", RAW, 0, "denoiser")
    after = settings_of(args, "GCNN N=8", RAW, 0, "denoiser")
    assert after["config"]["learning_rate"] == 0.01 != before["config"]["learning_rate"]
    assert settings_of(args, "plain CNN", RAW, 0, "denoiser")["config"]["learning_rate"] != 0.01


def test_measures_leave_out_what_was_not_observed() -> None:
    values = odds(1, 1.0)[0, 0]
    hidden = np.where(np.arange(60) < 20, np.nan, values)
    assert [*measures(values, 1.0, LABEL, IS_FAR)] == [*titles(FAR)]
    assert measures(hidden, 2.0, LABEL, IS_FAR) == measures(values[20:], 2.0, LABEL[20:], IS_FAR[20:])


def test_intervals_cover_test_galaxies_and_seeds() -> None:
    same = Verdicts(np.repeat(odds(1, 0.5), 3, 0), np.ones(3), LABEL, IS_FAR)
    accuracy = sampled(same, 300)[:, 0, 0]
    share = accuracy[0]
    binomial = np.sqrt(share * (1 - share) / 60)
    assert accuracy[1:].std() == pytest.approx(binomial, rel=0.2), "seeds that agree: galaxies alone"
    other = np.concatenate([same.odds[:2], -same.odds[:1]])
    wide = sampled(Verdicts(other, np.ones(3), LABEL, IS_FAR), 300)[1:, 0, 0]
    assert wide.std() > 1.5 * binomial, "and seeds that do not"
    np.testing.assert_array_equal(sampled(same, 20), sampled(same, 300)[:21], "samples are the same ones")


def test_tables_are_markdown_with_paired_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(morphology_report, "NUM_BOOTSTRAP", 20)
    twice = network(2, 1.0, 1.0)
    same = Network(1234, dict.fromkeys(KINDS, twice.kinds[RAW]))
    lines = report({"plain CNN": same}, [*CONDITIONS], FAR)
    assert lines[2] == "| network | parameters | images | clean | S/N 10 | S/N 5 | S/N 3 |"
    assert lines[3].count("---") == 7
    first = shown(sampled(twice.kinds[RAW], 20)[:, 0, 0])
    assert lines[4].startswith(f"| plain CNN | 1,234 | raw | {first} |")
    zero = "+0.000 (+0.000 to +0.000)"
    assert f"| plain CNN | {zero} | {zero} | {zero} | {zero} |" in lines
    assert sum(line.endswith(":") for line in lines) == 2 * len(titles(FAR))
