"""How far the runs of a catalogue are, from its ledger and from what the runs wrote: on any machine that reads it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.commit import Version, current_version
from engine.errors import ConfigError
from engine.ledger import Ledger
from engine.log import duration, short
from engine.runs import Beat, RunFolder, RunState, run_names
from engine.storage import Storage
from engine.units import given_up_id
from jobs import catalogue
from jobs.config import Place, load
from jobs.job import JobResult, Options

RATE_WINDOW_S = 600.0
"""Rates are those of so many seconds before now, or before a run ended."""
SHOWN_NAMES = 5
"""Names of runs that are told where the one that was asked for is not there."""
SLOWEST = 8
"""Units in hand that are named, those first that have been in their step longest."""


@dataclass(frozen=True)
class RunStatus:
    """How one run stands. Rates and what is left are those of the ledger; times ago are by the clock of the storage [s]."""

    run: str
    job: str
    where: str
    state: str
    """running, done, failed, interrupted, or lost: it was killed, or cut off from its storage."""
    began_s: float
    heard_s_ago: float
    units: int
    pending: int
    done: int
    running: tuple[dict[str, Any], ...]
    failed: int
    """Units that were given up because workers died of them, in this run or before, and the one that ended it."""
    rows: int
    rejected: int
    last_done_s_ago: float | None
    """None if no unit is done."""
    units_per_s: float
    rows_per_s: float
    bytes_per_s: float
    eta_s: float | None
    error: str


def run(options: Options) -> JobResult:
    """Tell of a catalogue, or of all catalogues that a configuration writes.

    Raises
    ------
    ConfigError
        If there is no run of the name that was asked for.
    """
    places = _places(options)
    if options.run:
        _check_run(options.run, places)
    told = [_told(place, options.run) for place in places]
    known = [result for result in told if result] or [JobResult({"runs": []}, ["nothing has run yet"])]
    return JobResult.joined(known)


def _check_run(run: str, places: list[Place]) -> None:
    names = sorted({name for place in places for name in run_names(place.uri, Storage(place.storage))})
    if run not in names:
        told = ", ".join(names[-SHOWN_NAMES:]) or "none has been"
        raise ConfigError("no such run", "--run", run, f"one of the last: {told}")


def _places(options: Options) -> list[Place]:
    if not options.target.endswith(".toml"):
        return [catalogue.load(options)[0]]
    config = load(options)
    outputs = [scoring.output for scoring in config.models] or [config.output]
    return [place for place in (config.staged, *outputs) if place]


def _told(place: Place, wanted: str) -> JobResult | None:
    """All there is to say of one catalogue, or of the run that is wanted; None if nothing has happened there."""
    storage = Storage(place.storage)
    version, names = current_version(place.uri, storage), run_names(place.uri, storage)
    names = [name for name in names if name == wanted] if wanted else names
    if not names and (wanted or not version):
        return None
    states = {name: RunFolder(place.uri, storage, name).read() for name in names}
    shown = [state for name, state in states.items() if state and (name == names[-1] or not state.end)]
    now_s = storage.reader_clock_s(place.uri)
    # Of runs that were killed only the last is news; any that goes on is.
    shown = [state for state in shown if state is shown[-1] or not state.is_lost(now_s)]
    done_at = Ledger(place.uri, storage).times() if shown else {}
    runs = [status(state, RunFolder(place.uri, storage, state.begin.run), done_at, now_s) for state in shown]
    summary = {
        "catalogue": place.uri,
        "version": asdict(version) if version else None,
        "runs": [asdict(one) for one in runs],
    }
    lines = [_version_line(place, version)] + [line for one in runs for line in _lines(one)]
    return JobResult(summary, lines)


def status(state: RunState, folder: RunFolder, done_at: dict[str, float], now_s: float) -> RunStatus:
    """Put together what a run has told and what the ledger says of its units.

    Parameters
    ----------
    done_at
        Ids of the units that have a record, and when it was made [s].
    now_s
        Time for which it is told by the clock of the storage [s, Unix time].
    """
    begin, told = state.begin, state.end or state.driver
    table = folder.units()
    at = np.array([done_at.get(unit, np.nan) for unit in table["unit_id"].to_pylist()], float)
    done, sizes = np.isfinite(at), table["num_bytes"].to_numpy().astype(float)
    given_up = sum(
        given_up_id(unit) in done_at for unit in table["unit_id"].filter(pa.array(~done)).to_pylist()
    )
    rows = told.rows if told else 0
    per_unit = rows / told.done if told and told.done else 0.0
    kind = state.end.state if state.end else "lost" if state.is_lost(now_s) else "running"
    until_s = now_s if kind == "running" else state.heard_s
    units_per_s, bytes_per_s = rates(at[done], sizes[done], until_s)
    in_hand = [one for beat in state.beats for one in _in_hand(beat, now_s - state.written_s[beat.who])]
    error = state.end.error if state.end else ""
    return RunStatus(
        run=begin.run,
        job=begin.job,
        where=f"{begin.host}:{begin.pid}",
        state=kind,
        began_s=begin.began_s,
        heard_s_ago=round(max(now_s - state.heard_s, 0), 1),
        units=begin.units,
        pending=begin.pending,
        done=int(done.sum()),
        running=tuple(sorted(in_hand, key=lambda one: -one["for_s"])) if kind == "running" else (),
        failed=given_up + error.startswith("unit "),
        rows=rows,
        rejected=told.rejected if told else 0,
        last_done_s_ago=round(max(now_s - at[done].max(), 0), 1) if done.any() else None,
        units_per_s=units_per_s,
        rows_per_s=units_per_s * per_unit,
        bytes_per_s=bytes_per_s,
        eta_s=_eta(kind, ~done, sizes, units_per_s, bytes_per_s),
        error=error,
    )


def rates(at: np.ndarray, sizes: np.ndarray, until_s: float) -> tuple[float, float]:
    """Units and bytes a second in the `RATE_WINDOW_S` before a time, or since the first unit if that was done later.

    Parameters
    ----------
    at, sizes
        When each unit was done [s, Unix time], and its size [bytes]; float [units].
    until_s
        End of the window by the same clock [s, Unix time].

    Returns
    -------
    units_per_s, bytes_per_s
        0 if no unit was done in it; of the window since the first unit, that one itself does not count.
    """
    start_s = max(until_s - RATE_WINDOW_S, at.min(initial=np.inf))
    is_recent = at > start_s
    if not is_recent.any():
        return 0.0, 0.0
    seconds = max(until_s, at.max()) - start_s
    return float(is_recent.sum() / seconds), float(sizes[is_recent].sum() / seconds)


def _eta(
    kind: str, is_left: np.ndarray, sizes: np.ndarray, units_per_s: float, bytes_per_s: float
) -> float | None:
    """Time that is left [s] at the present rate: by bytes where units have some, else by units."""
    if kind != "running" or not units_per_s:
        return None
    if bytes_per_s:
        return float(sizes[is_left].sum() / bytes_per_s)
    return float(is_left.sum() / units_per_s)


def _in_hand(beat: Beat, age_s: float) -> list[dict[str, Any]]:
    """Tell what a worker has in hand, and for how long: by its own clock up to its beat, then for as long as that is old."""
    where = f"{beat.host}:{beat.pid}"
    return [
        {
            "unit": one.unit,
            "step": one.step,
            "for_s": round(max(beat.time_s - one.since_s, 0) + max(age_s, 0), 1),
            "where": where,
        }
        for one in beat.in_hand
    ]


def _version_line(place: Place, version: Version | None) -> str:
    if not version:
        return f"catalogue: {place.uri}: nothing is published yet"
    return (
        f"catalogue: {place.uri}: version {version.version}, {version.rows} rows, {version.rejected} rejected, "
        f"published {version.created}"
    )


def _lines(one: RunStatus) -> list[str]:
    heard = "ended" if one.state in ("done", "failed", "interrupted") else "last heard"
    lines = [
        f"run {one.run}: {one.job} on {one.where}: {one.state}, {heard} {duration(one.heard_s_ago)} ago",
        f"  units: {one.done}/{one.pending} done, {len(one.running)} running, {one.failed} failed "
        f"({one.units} in the release)",
        f"  rows: {short(one.rows)}, rejected {one.rejected}",
    ]
    if one.last_done_s_ago is not None:
        lines.append(f"  last unit done {duration(one.last_done_s_ago)} ago")
    if one.units_per_s:
        eta = f", ETA {duration(one.eta_s)}" if one.eta_s is not None else ""
        lines.append(
            f"  rate: {one.units_per_s:.3g} units/s, {short(one.rows_per_s)} rows/s, "
            f"{one.bytes_per_s / 1e6:.3g} MB/s{eta}"
        )
    lines += [
        f"  {unit['unit']}: in '{unit['step']}' for {duration(unit['for_s'])} on {unit['where']}"
        for unit in one.running[:SLOWEST]
    ]
    lines += [f"  error: {one.error}"] if one.error else []
    hint = "  it was killed or cut off; what is done is kept: run the same line again to go on"
    return lines + ([hint] if one.state == "lost" else [])
