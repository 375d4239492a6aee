"""Let things go wrong at random moments of a reprocessing, run it again, and compare the catalogue with an undisturbed one.

`python -m benchmarks.chaos [--moments N] [--seed N] [--faults NAME,...]`: the faults take turns (those of
`benchmarks.faults.inflict.FAULTS`), each until it has hit a run that was not over yet. After each the same line is run
again until it ends with 0; then every row is compared, `check` is run, and a reader that has polled all the while
says whether it saw a version that was not whole. Exit code 1 if anything was lost, doubled, wrong or partial, or if a
fault was never hit. Faults whose tool is not installed are listed as not tried; asked for by name they are refused.

"recovery s" is how much later the catalogue was published than an undisturbed run would have been, reruns and the start of
their Ray included: the time since the fault, less what an undisturbed run still had to do then. For a killed node alone:
`--faults node`. Moments before which a run had ended do not count in it.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.faults.inflict import FAULTS, Fault, Scene
from benchmarks.faults.nodes import Nodes, has_faketime, set_clock
from benchmarks.faults.proxy import FAULTS as HTTP_FAULTS
from benchmarks.faults.proxy import FaultProxy, running
from benchmarks.faults.rgw import Rgw, missing_tools, rgw
from benchmarks.faults.s3server import make_bucket, moto, set_keys
from benchmarks.faults.site import Comparison, Site, compare
from benchmarks.faults.watching import Watcher

MAX_RERUNS = 5
MAX_TRIES = 4
"""Moments drawn for a fault until one comes before the run's end."""
PLAIN = {"own": "plain", "nodes": "plain-nodes", "s3": "plain"}
"""Catalogue of the undisturbed run of each place."""
LONGEST = 20
"""A run that takes so many times as long as an undisturbed one, and two minutes, hangs."""


@dataclass(frozen=True)
class Outcome:
    """What became of one disturbed catalogue."""

    fault: str
    was_hit: bool
    reruns: int
    hung: bool
    recovery_s: float
    looks: int
    blind: int
    partial: tuple[str, ...]
    comparison: Comparison

    @property
    def ok(self) -> bool:
        """Whether it is as if nothing had happened, and somebody has looked."""
        return self.comparison.ok and self.looks > self.blind and not self.partial and not self.hung


def main(argv: Sequence[str] | None = None) -> int:
    line = argparse.ArgumentParser("python -m benchmarks.chaos", description=__doc__)
    line.add_argument("--moments", type=int, default=len(FAULTS), help="turns; each is of another fault")
    line.add_argument("--seed", type=int, default=1)
    line.add_argument("--files", type=int, default=12, help="coadds of the release, of 30 spectra each")
    line.add_argument("--faults", default="", help="only these, e.g. driver,node")
    line.add_argument(
        "--endpoint",
        default="",
        help="S3 server to use (keys: AWS_*); default: Ceph's gateway if it is installed, else an emulator",
    )
    arguments = line.parse_args(argv)
    try:
        faults, not_tried = choose(arguments.faults, arguments.moments, missing(arguments.endpoint))
    except ValueError as error:
        line.error(str(error))
    print("\n".join(not_tried))
    rng = random.Random(arguments.seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trawl-chaos-")))
        stage = _Stage(stack, folder, arguments.files, arguments.endpoint)
        outcomes = [
            outcome
            for n in range(arguments.moments)
            for outcome in stage.hit(f"moment-{n}", faults[n % len(faults)], rng)
        ]
    spared = [f"never hit: {name}" for name in never_hit(outcomes)]
    print("\n".join(["", *table(outcomes), *not_tried, *spared]))
    return 0 if all(outcome.ok for outcome in outcomes) and not spared else 1


def missing(endpoint: str) -> dict[str, str]:
    """Return the tools of faults that are not here, with what would help."""
    lacks = {} if has_faketime() else {"libfaketime": "apt-get install libfaketime"}
    if endpoint:
        lacks["radosgw"] = "a server of --endpoint is not killed"
    elif missing_tools():
        lacks["radosgw"] = "apt-get install radosgw ceph-mon ceph-osd ceph-common"
    return lacks


def choose(names: str, moments: int, lacks: Mapping[str, str]) -> tuple[list[Fault], list[str]]:
    """Return the faults that take turns, and a line for each that is not tried.

    Parameters
    ----------
    names
        Names with commas between; all faults if empty.
    moments
        Turns that there are.
    lacks
        Tools that are not here, with what would help.

    Raises
    ------
    ValueError
        If a name is unknown, a fault that is named cannot be tried, or none can.
    """
    wanted = [name.strip() for name in names.split(",")] if names else [fault.name for fault in FAULTS]
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no such fault: {', '.join(unknown)}; there are: {', '.join(known)}")
    chosen = [known[name] for name in dict.fromkeys(wanted)]
    able = [fault for fault in chosen if fault.needs not in lacks]
    not_tried = [
        f"not tried: {fault.name}: needs {fault.needs} ({lacks[fault.needs]})"
        for fault in chosen
        if fault not in able
    ]
    not_tried += [f"not tried: {fault.name}: needs more moments than {moments}" for fault in able[moments:]]
    if not_tried and (names or not able[:moments]):
        raise ValueError("; ".join(not_tried))
    return able[:moments], not_tried


def never_hit(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the faults that struck at no moment, in the order of their turns."""
    names = dict.fromkeys(outcome.fault for outcome in outcomes)
    hit = {outcome.fault for outcome in outcomes if outcome.was_hit}
    return [name for name in names if name not in hit]


class _Stage:
    """Places where faults happen, each set up when it is first needed."""

    def __init__(self, stack: ExitStack, folder: Path, num_files: int, endpoint: str) -> None:
        self._stack, self._folder, self._num_files, self._endpoint = stack, folder, num_files, endpoint
        self._sites: dict[str, tuple[Site, float]] = {}
        self._disk: Site | None = None
        self._nodes: Nodes | None = None
        self._proxy: FaultProxy | None = None
        self._server: Rgw | None = None
        self._clock = folder / "clock"
        set_clock(self._clock, 0)

    def hit(self, name: str, fault: Fault, rng: random.Random) -> list[Outcome]:
        """Let something go wrong, at another moment where a run had ended before it."""
        outcomes: list[Outcome] = []
        while len(outcomes) < MAX_TRIES and not any(outcome.was_hit for outcome in outcomes):
            outcomes.append(self.disturb(f"{name}-{len(outcomes)}", fault, rng))
        return outcomes

    def disturb(self, name: str, fault: Fault, rng: random.Random) -> Outcome:
        """Let something go wrong once, then run to the end."""
        site, usual = self._site(fault.place)
        after_s, limit_s = rng.uniform(0, usual), LONGEST * usual + 120
        endpoint = self._misbehave(fault)
        with (
            Watcher(site, name) as watcher,
            ended(site.start(name, *fault.overrides, endpoint=endpoint)) as driver,
        ):
            nodes, began = self._nodes if fault.place == "nodes" else None, time.monotonic()
            scene = Scene(driver, rng, nodes, self._proxy, self._clock, self._server)
            with suppress(subprocess.TimeoutExpired):
                driver.wait(after_s)
            scene.strikes()
            hit = fault.inflict(scene)
            after_s = scene.struck - began
            code, reruns = _wait(driver, limit_s), 0
            while code and reruns < MAX_RERUNS:
                code = _wait(site.start(name, *fault.overrides, endpoint=endpoint), limit_s)
                reruns += 1
            recovery_s = max(0.0, time.monotonic() - scene.struck - max(usual - after_s, 0))
        self._calm()
        hung = code == HUNG
        outcome = Outcome(
            fault.name,
            hit,
            reruns,
            hung,
            recovery_s,
            watcher.looks,
            watcher.blind,
            tuple(watcher.partial),
            compare(site, name, PLAIN[fault.place]),
        )
        told = ", ".join(scene.told)
        print(f"{fault.name} ({told}) after {after_s:.1f} of {usual:.1f} s: {outcome}", flush=True)
        if reruns or not outcome.ok:
            print("\n".join(f"  | {text}" for text in site.log(name).splitlines()[-6:]), flush=True)
        return outcome

    def _misbehave(self, fault: Fault) -> str:
        """Begin with what goes wrong all the while; return the endpoint to use."""
        if self._proxy is None or fault.place != "s3":
            return ""
        waits = {name: 0.002 if "stall" in name else 0.03 for name in HTTP_FAULTS}
        self._proxy.rates = waits if fault.name == "server misbehaves" else {}
        return self._proxy.url

    def _calm(self) -> None:
        set_clock(self._clock, 0)
        if self._proxy is not None:
            self._proxy.rates, self._proxy.is_down = {}, False

    def _site(self, place: str) -> tuple[Site, float]:
        """Return a site, and how long an undisturbed run takes there [s]."""
        if place not in self._sites:
            site = {"own": self._on_disk, "nodes": self._on_nodes, "s3": self._on_s3}[place]()
            began = time.monotonic()
            if site.start(PLAIN[place]).wait():
                raise SystemExit(f"the undisturbed run failed:\n{site.log(PLAIN[place])}")
            self._sites[place] = site, time.monotonic() - began
            print(f"undisturbed, {place}: {self._sites[place][1]:.1f} s", flush=True)
        return self._sites[place]

    def _on_disk(self) -> Site:
        """Site of the release on local disk, made when it is first needed."""
        if self._disk is None:
            self._disk = Site(self._folder, str(self._folder)).prepare(self._num_files)
        return self._disk

    def _on_nodes(self) -> Site:
        clock = self._clock if has_faketime() else None
        self._nodes = self._stack.enter_context(Nodes(2, num_cpus=2, clock=clock))
        return replace(self._on_disk(), address=self._nodes.address)

    def _on_s3(self) -> Site:
        set_keys()
        endpoint = self._endpoint or self._own_server()
        self._proxy = self._stack.enter_context(running(FaultProxy(endpoint, seed=5)))
        folder = self._folder / "s3"
        folder.mkdir()
        return Site(folder, make_bucket(endpoint), endpoint).prepare(self._num_files)

    def _own_server(self) -> str:
        if missing_tools():
            print("S3 is an emulator: Ceph's gateway is not installed")
            return self._stack.enter_context(moto())
        self._server = self._stack.enter_context(rgw())
        return self._server.endpoint


HUNG = -1000


@contextmanager
def ended(driver: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Leave no job behind that hangs, or when the benchmark is interrupted."""
    try:
        yield driver
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, 9)
            driver.wait()


def _wait(driver: subprocess.Popen[bytes], limit_s: float) -> int:
    """Return the exit code; that of one which takes too long, and is then ended, is `HUNG`."""
    with ended(driver), suppress(subprocess.TimeoutExpired):
        return driver.wait(limit_s)
    return HUNG


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """One line a fault."""
    lines = [
        "| fault | times | hit | reruns | lost | doubled | wrong | looks | seen partial | checked | recovery s, median | longest |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(outcome.fault for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.fault == name]
        seconds = [outcome.recovery_s for outcome in mine if outcome.was_hit]
        cells = [
            name, len(mine), sum(o.was_hit for o in mine), sum(o.reruns for o in mine),
            sum(o.comparison.lost for o in mine), sum(o.comparison.doubled for o in mine),
            sum(o.comparison.wrong for o in mine), sum(o.looks - o.blind for o in mine), sum(len(o.partial) for o in mine),
            sum(o.comparison.is_checked and o.comparison.is_balanced for o in mine),
            *([f"{statistics.median(seconds):.0f}", f"{max(seconds):.0f}"] if seconds else ["", ""]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
