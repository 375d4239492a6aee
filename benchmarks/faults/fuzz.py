"""Read damaged releases in child processes and judge what came of it."""

import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.faults.child import Child
from benchmarks.faults.corpus import Release
from benchmarks.faults.mutations import Mutation, Sound, mutate

TIMEOUT_S = 30.0
"""Longest that a case may take, of a processor [s]."""

MEMORY_BYTES = 1 << 30
"""Most that a case may need."""


@dataclass(frozen=True)
class Case:
    """A file of a release, damaged."""

    number: int
    release: Release
    path: str
    mutation: Mutation


@dataclass(frozen=True)
class Verdict:
    """What came of a case; `problems` is empty if all is well."""

    number: int
    release: str
    path: str
    kind: str
    num_rows: int
    reasons: tuple[str, ...]
    problems: tuple[str, ...]
    peak: int
    seconds: float


def make_cases(releases: Sequence[Release], numbers: Iterable[int], seed: int) -> Iterator[Case]:
    """Damage one file of one release a number, each by its own draw: a case can be made again alone."""
    sound: dict[tuple[str, str], Sound] = {}
    for number in numbers:
        rng = random.Random(f"{seed} {number}")
        release = releases[number % len(releases)]
        path = rng.choice(release.victims)
        file = sound.setdefault((release.name, path), Sound(release.files[path]))
        yield Case(number, release, path, mutate(rng, file))


def run(releases: Sequence[Release], num_cases: int, seed: int, workers: int) -> list[Verdict]:
    """Read all cases in so many children; verdicts in the order of the cases."""
    with ThreadPoolExecutor(workers) as threads:
        shares = threads.map(
            lambda first: _run_share(releases, range(first, num_cases, workers), seed), range(workers)
        )
        return sorted((verdict for share in shares for verdict in share), key=lambda verdict: verdict.number)


def _run_share(releases: Sequence[Release], numbers: Iterable[int], seed: int) -> list[Verdict]:
    child = Child("benchmarks.faults.reading")
    with TemporaryDirectory(prefix="trawl-fuzz-") as name:
        try:
            sound = {release.name: _read_sound(child, Path(name), release) for release in releases}
            return [_read(child, Path(name), case, sound) for case in make_cases(releases, numbers, seed)]
        finally:
            child.close()


def _read_sound(child: Child, folder: Path, release: Release) -> dict[str, Any]:
    """Write a release; return what a child says of it, where all must be well."""
    for path, data in release.files.items():
        target = folder / release.name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    answer = child.ask(_order(folder, release), TIMEOUT_S)
    if answer["problems"] or not answer["num_rows"]:
        raise RuntimeError(f"{release.name} is not sound: {answer}")
    return answer


def _read(child: Child, folder: Path, case: Case, sound: dict[str, dict[str, Any]]) -> Verdict:
    target = folder / case.release.name / case.path
    target.write_bytes(case.mutation.data)
    answer = child.ask(_order(folder, case.release), TIMEOUT_S)
    target.write_bytes(case.release.files[case.path])
    return judge(case, answer, sound[case.release.name])


def _order(folder: Path, release: Release) -> dict[str, Any]:
    return {
        "source": release.source,
        "settings": release.settings,
        "folder": str(folder / release.name),
    }


def judge(case: Case, answer: dict[str, Any], sound: dict[str, Any]) -> Verdict:
    """Compare what a child said of a case with what may be, and with what it said of the sound release."""
    problems = list(answer["problems"])
    usual = {row["reason"] for row in sound["rejected"]}
    rejected = [row for row in answer.get("rejected", ()) if row["reason"] not in usual]
    reasons = tuple(sorted({row["reason"] for row in rejected}))
    wrong = [row for row in rejected if row["reason"] not in case.mutation.reasons]
    problems += [f"wrong reason {row['reason']}: {row['detail'][:200]}" for row in wrong[:1]]
    if not problems:
        problems += _silences(case, rejected, answer["rows"] == sound["rows"])
    if answer.get("peak", 0) > MEMORY_BYTES:
        problems.append(f"{answer['peak'] >> 20} MiB of memory")
    return Verdict(
        case.number,
        case.release.name,
        case.path,
        case.mutation.kind,
        answer.get("num_rows", 0),
        reasons,
        tuple(problems),
        answer.get("peak", 0),
        answer.get("seconds", 0.0),
    )


def _silences(case: Case, rejected: Sequence[dict[str, Any]], is_same: bool) -> Iterator[str]:
    """Damage that should have been told and was not, or not where it is; `is_same` where rows are the sound ones."""
    if case.mutation.must_reject and not rejected:
        yield "nothing was rejected"
    if case.mutation.keeps_rows and not rejected and not is_same:
        yield "rows changed and nothing was rejected"
    name = case.path.rpartition("/")[2]
    faults = [row for row in rejected if row["reason"] in ("truncated_file", "unreadable_file", "not_fits")]
    if faults and not any(name in row["uri"] or name in row["detail"] for row in faults):
        yield f"no rejection names {name}: {faults[0]['detail'][:200]}"
