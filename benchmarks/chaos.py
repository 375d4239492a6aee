"""Kill a reprocessing at random moments, run it again, and compare the catalogue with an undisturbed one.

`python -m benchmarks.chaos [--moments N] [--seed N]`: each moment kills, with SIGKILL, either the driver with its
Ray or one of its worker processes; the same line is run again until it ends with 0, then checked. Exit code 1 if
anything was lost, doubled or wrong.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.small_model import make_checkpoint
from engine.commit.manifest import read_manifest, version_numbers
from engine.storage import Storage
from engine.synthetic.desi import SynthesizeConfig, task_count, write_task

KEY = ("survey", "program", "targetid")
VICTIMS = ("driver", "worker")
CONFIG = """
[release]
uri = "{folder}/release"
[checkpoint]
uri = "{folder}/checkpoint"
[report]
enabled = false
[pipeline]
workers = 2
[cluster]
address = "local"
num_cpus = 3
object_store_memory_gib = 0.3
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one disturbed catalogue."""

    victim: str
    after_s: float
    was_hit: bool
    reruns: int
    recovery_s: float
    lost: int
    doubled: int
    is_equal: bool
    checked: bool

    @property
    def ok(self) -> bool:
        return not self.lost and not self.doubled and self.is_equal and self.checked


def main(argv: Sequence[str] | None = None) -> int:
    line = argparse.ArgumentParser("python -m benchmarks.chaos", description=__doc__)
    line.add_argument("--moments", type=int, default=10)
    line.add_argument("--seed", type=int, default=1)
    line.add_argument("--files", type=int, default=12, help="coadds of the release, of 30 spectra each")
    arguments = line.parse_args(argv)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="trawl-chaos-") as name:
        folder = prepare(Path(name), arguments.files)
        began = time.monotonic()
        if run_to_the_end(folder, "plain"):
            raise SystemExit("the undisturbed run failed")
        usual = time.monotonic() - began
        print(
            f"undisturbed: {usual:.0f} s\n\n| killed | after s | hit | reruns | recovery s | lost | doubled | equal | check |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        outcomes = [disturb(folder, f"moment-{n}", rng, usual) for n in range(arguments.moments)]
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def prepare(folder: Path, num_files: int) -> Path:
    """Write a release, a model and the configuration."""
    wanted = SynthesizeConfig(num_spectra=30 * num_files, spectra_per_file=30, seed=7)
    for index in range(task_count(wanted)):
        write_task(wanted, index, str(folder / "release"), Storage())
    make_checkpoint(folder / "checkpoint")
    (folder / "job.toml").write_text(CONFIG.format(folder=folder))
    return folder


def disturb(folder: Path, name: str, rng: random.Random, usual: float) -> Outcome:
    """Kill something once at a moment of the usual length of a run, then run to the end."""
    victim, after_s = rng.choice(VICTIMS), rng.uniform(0, usual)
    driver = start(folder, name)
    with suppress(subprocess.TimeoutExpired):
        driver.wait(after_s)
    hit = kill(driver, victim, rng)
    killed = time.monotonic()
    code = driver.wait()
    reruns = 0
    while code and reruns < 5:
        code, reruns = run_to_the_end(folder, name), reruns + 1
    outcome = compare(folder, name, victim, after_s, hit, reruns, time.monotonic() - killed)
    print(f"| {victim} | {after_s:.1f} | {hit} | {reruns} | {outcome.recovery_s:.0f} | {outcome.lost} "
          f"| {outcome.doubled} | {outcome.is_equal} | {outcome.checked} |", flush=True)  # fmt: skip
    return outcome


def start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "jobs",
        "reprocess",
        str(folder / "job.toml"),
        "-o",
        f"output.uri={folder / name}",
    ]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def run_to_the_end(folder: Path, name: str) -> int:
    return start(folder, name).wait()


def kill(driver: subprocess.Popen[bytes], victim: str, rng: random.Random) -> bool:
    """Kill the driver and what it started, or one worker; False if there was nothing to kill."""
    if driver.poll() is not None:
        return False
    children = psutil.Process(driver.pid).children(recursive=True)
    if victim == "driver":
        os.kill(driver.pid, signal.SIGKILL)
        doomed = children
    else:
        workers = [child for child in children if _title(child).startswith("ray::")]
        doomed = rng.sample(workers, min(1, len(workers)))
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return victim == "driver" or bool(doomed)


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return "".join(process.cmdline()[:1])
    return ""


def compare(
    folder: Path, name: str, victim: str, after_s: float, hit: bool, reruns: int, recovery_s: float
) -> Outcome:
    """Set a catalogue beside the undisturbed one."""
    root, plain = str(folder / name), str(folder / "plain")
    if not version_numbers(root, Storage()):
        return Outcome(victim, after_s, hit, reruns, recovery_s, table(plain).num_rows, 0, False, False)
    ours, expected = table(root), table(plain)
    keys, wanted = keys_of(ours), keys_of(expected)
    check = [sys.executable, "-m", "jobs", "check", root]
    checked = subprocess.run(check, capture_output=True, check=False).returncode == 0
    one_version = len(version_numbers(root, Storage())) == 1
    equal = one_version and ours.equals(expected)
    return Outcome(
        victim, after_s, hit, reruns, recovery_s,
        lost=len(wanted - keys), doubled=ours.num_rows - len(keys), is_equal=equal, checked=checked,
    )  # fmt: skip


def table(root: str) -> pa.Table:
    """All rows of the current version, in the order of its files."""
    paths = read_manifest(root, Storage()).paths("data")
    return pa.concat_tables(pq.read_table(f"{root}/{path}", partitioning=None) for path in paths)


def keys_of(rows: pa.Table) -> set[tuple[object, ...]]:
    return set(zip(*(rows[name].to_pylist() for name in KEY), strict=True))


if __name__ == "__main__":
    sys.exit(main())
