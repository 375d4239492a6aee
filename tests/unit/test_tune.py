"""A trial inside a study: what its run has on record is told first, then it goes on."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from engine import tune
from engine.storage import Storage
from engine.train.plan import TrainConfig, TrainData
from engine.train.state import Progress, RunState, save_state

METRIC = "val_nll + val_kl"
LOSSES = (3.0, 2.0, 1.5)


def metrics(epoch: int) -> dict[str, float]:
    return {"epoch": float(epoch), "val_nll": LOSSES[epoch - 1], "val_kl": 0.25}


def test_a_trial_that_was_interrupted_tells_what_it_had_and_goes_on(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, runs_uri = Storage(), str(tmp_path)
    trials = [
        tune.Trial(n, {}, lambda: pytest.fail("not built here"), TrainData((), 8, ()), TrainConfig(epochs=3), {"model": n})
        for n in (0, 1)
    ]  # fmt: skip
    stored = Progress(epoch=1, step=4, history=[metrics(1)])
    save_state(RunState(stored, {}, {}), tune._run_uri(trials[1], runs_uri), storage, 1)
    told: list[dict[str, float]] = []
    told_before: list[int] = []

    def train(
        factory: object, data: object, config: TrainConfig, uri: str, storage: Storage, identity: Mapping[str, int],
        on_metrics: Callable[[Mapping[str, float]], None], may_grow: bool,
    ) -> None:  # fmt: skip
        assert (uri, identity, may_grow) == (runs_uri, {"model": 1}, False)
        told_before.append(len(told))
        on_metrics({"step": 5.0, "train_loss": 9.0})
        for epoch in range(1, config.epochs + 1):  # the loop tells the last stored epoch again
            on_metrics(metrics(epoch))

    monkeypatch.setattr(tune.tune, "report", told.append)
    monkeypatch.setattr(tune, "train", train)
    tune._run({"number": 1}, trials, runs_uri, storage, METRIC, may_grow=False)
    assert told == [{"epoch": n, "objective": LOSSES[n - 1] + 0.25} for n in (1, 2, 3)]
    assert told_before == [1], "what is on record is told before the training goes on"
    told.clear()
    monkeypatch.setattr(tune, "train", lambda *_: None)
    tune._run({"number": 0}, trials, runs_uri, storage, METRIC, may_grow=False)
    assert told == [], "the record of another trial is not its own"
