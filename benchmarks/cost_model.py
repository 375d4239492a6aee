"""What a survey costs: bytes, hours of CPU and GPU, dollars, and which term bounds the time.

    python -m benchmarks.cost_model [--nodes 4] [--page docs/scale.md]

Measured constants are figures of other benchmarks (2 cores, no GPU); what is assumed is said beside it. Terms that
overlap in time (fetching, computing, the driver's book-keeping) are compared, the largest bounds; those that do not
(start, publishing) are added. `--page` writes the tables into the page.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- tables: python -m benchmarks.cost_model -->", "<!-- end of tables -->"


@dataclass(frozen=True)
class Constant:
    """A number, its unit, and where it is from: a command that prints it, or why it is assumed."""

    value: float
    unit: str
    source: str


# One line each, with what the command prints; on the two cores of a machine with AVX2, the slower of two kinds. A newer number goes in here alone,
# then: python -m benchmarks.cost_model --page docs/scale.md
MEASURED = {
    "spectra": Constant(2198 / 2, "spectra/s and core, read, merged, scored, written", "`python -m benchmarks.end_to_end`: trawl"),
    "spectra_read": Constant(4900, "spectra/s and core, read and prepared only", "`python -m benchmarks.end_to_end`: our reader alone"),
    "spectrum_fetched": Constant(48e6 / 500 * 1.009, "bytes fetched a spectrum", "`python -m benchmarks.bytes_fetched`: 48 MB used of a coadd of 500"),
    "cutouts": Constant(13_000 / 2, "cutouts/s, band and core, read, cut and written", "`python -m benchmarks.cutouts`: best that writes"),
    "galaxies": Constant(371 / 2, "galaxies/s and core, denoised and classified", "`python -m benchmarks.morphology_rate`: through the engine"),
    "merged": Constant(400_000 / 1.5, "rows/s and core, merged into partitions", "docs/log.md: 400,000 rows in 1.5 s; no command prints it"),
    "driver": Constant(0.0095, "s of the driver a unit, most of it Ray Data's", "`python -m benchmarks.overhead`: driver, on AVX2; 4.5 ms with AVX-512"),
}  # fmt: skip

ASSUMED = {
    "vcpus": Constant(32, "vCPU of a reading node (c7i.8xlarge), two to a core", "AWS"),
    "node": Constant(0.57, "USD an hour of it, spot", "40 % of a list price of 1.43"),
    "network": Constant(12.5e9 / 8 * 0.6, "bytes/s of it from S3", "60 % of 12.5 Gbit/s"),
    "gpu": Constant(0.48, "USD an hour of a GPU node (g5.2xlarge), spot", "40 % of a list price of 1.21"),
    "gpu_rate": Constant(40, "cores that its GPU is worth for these networks", "a guess: no GPU was at hand"),
    "get": Constant(0.4e-6, "USD a GET", "S3 list price"),
    "put": Constant(5e-6, "USD a PUT or LIST", "S3 list price"),
    "kept": Constant(0.023e-9, "USD a byte and month", "S3 list price"),
    "egress": Constant(0.09e-9, "USD a byte out of the region", "AWS list price; nothing inside the region"),
    "start": Constant(300, "s until nodes are up and have their image", "a guess"),
}


@dataclass(frozen=True)
class Survey:
    """A survey and what is done with it.

    Parameters
    ----------
    name
        What it is.
    objects, units
        Objects, and units of work that they come in.
    stored_bytes, fetched_bytes
        Size of the release, and what is read of it.
    gets
        Requests that reading a unit takes.
    read_s, score_s
        Seconds of a core for an object: reading and preparing; the networks.
    row_bytes
        Of the catalogue, an object.
    says
        Where the numbers are from.
    """

    name: str
    objects: float
    units: float
    stored_bytes: float
    fetched_bytes: float
    gets: int
    read_s: float
    score_s: float
    row_bytes: float
    says: tuple[str, ...]


def desi() -> Survey:
    """Return DESI DR1, all coadds of the healpix layout."""
    objects = 18.7e6
    read_s = 1 / MEASURED["spectra_read"].value
    return Survey(
        "DESI DR1", objects, objects / 750, objects * 440e3, objects * MEASURED["spectrum_fetched"].value,
        gets=20, read_s=read_s, score_s=1 / MEASURED["spectra"].value - read_s, row_bytes=300,
        says=("18.7 million objects (DESI Collaboration 2025, arXiv:2503.14745)", "440 kB a target in a coadd of 220 MB with 500",
              "750 targets a coadd, 20 requests a coadd and 300 bytes a row of the catalogue are assumed"),
    )  # fmt: skip


def nircam() -> Survey:
    """Return a NIRCam survey of a hundred million sources in six bands."""
    objects, bands, per_arcmin2 = 1e8, 6, 200
    pixels = objects / per_arcmin2 * (60 / 0.03) ** 2 * bands
    return Survey(
        "NIRCam, 1e8 sources", objects, objects / 1000, pixels * 12, pixels * 8, gets=bands * 2 * 8,
        read_s=bands / MEASURED["cutouts"].value, score_s=1 / MEASURED["galaxies"].value, row_bytes=1200,
        says=("200 sources an arcmin2, 0.03 arcsec a pixel, six bands: 139 square degrees",
              "science and error are read (8 bytes a pixel), weight is not (12 are stored), each byte once",
              "1,000 sources a strip, 8 requests a plane of a strip, 1.2 kB a row are assumed",
              "the networks are those of `morphology.toml`: a denoiser and a classifier"),
    )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What a survey takes on so many nodes; times in hours."""

    survey: Survey
    nodes: int
    fetch_h: float
    cpu_h: float
    gpu_h: float
    driver_h: float
    publish_h: float
    gpus: int

    @property
    def terms(self) -> dict[str, float]:
        """Wall times of what overlaps."""
        cores = self.nodes * ASSUMED["vcpus"].value / 2
        gpu = {"networks on GPUs": self.gpu_h / self.gpus} if self.gpus else {}
        return {
            "fetching": self.fetch_h / self.nodes,
            "CPUs": self.cpu_h / cores,
            **gpu,
            "the driver": self.driver_h,
        }

    @property
    def wall_h(self) -> float:
        """From start to the published version."""
        return max(self.terms.values()) + self.publish_h + ASSUMED["start"].value / 3600

    @property
    def bound(self) -> str:
        """Largest term."""
        return max(self.terms, key=lambda name: self.terms[name])

    @property
    def compute_usd(self) -> float:
        """Nodes and GPUs for as long as it takes."""
        return self.wall_h * (self.nodes * ASSUMED["node"].value + self.gpus * ASSUMED["gpu"].value)

    @property
    def requests_usd(self) -> float:
        """Reading; per unit a fragment, a rejected one, a record, and the record read again."""
        units = self.survey.units
        return units * (self.survey.gets + 2) * ASSUMED["get"].value + units * 3 * ASSUMED["put"].value


def cost(survey: Survey, nodes: int, gpus: int) -> Cost:
    """Work out what a survey takes; with GPUs the networks are theirs, else the CPUs'."""
    scoring_h = survey.objects * survey.score_s / 3600
    cpu_h = survey.objects * survey.read_s / 3600 + (0 if gpus else scoring_h)
    return Cost(
        survey=survey,
        nodes=nodes,
        gpus=gpus,
        fetch_h=survey.fetched_bytes / ASSUMED["network"].value / 3600,
        cpu_h=cpu_h,
        gpu_h=scoring_h / ASSUMED["gpu_rate"].value if gpus else 0.0,
        driver_h=survey.units * MEASURED["driver"].value / 3600,
        publish_h=survey.objects / MEASURED["merged"].value / (nodes * ASSUMED["vcpus"].value / 2) / 3600,
    )


def tables(nodes: int) -> str:
    """All of it as Markdown."""
    made = [cost(survey, nodes, gpus) for survey in (desi(), nircam()) for gpus in (0, 2)]
    rows = [
        ("objects, units", *(f"{c.survey.objects:.3g}, {c.survey.units:.3g}" for c in made)),
        ("release, fetched of it", *(f"{_bytes(c.survey.stored_bytes)}, {_bytes(c.survey.fetched_bytes)}" for c in made)),
        ("fetching, a node for", *(f"{c.fetch_h:.3g} h" for c in made)),
        ("CPU, core hours", *(f"{c.cpu_h:.3g}" for c in made)),
        ("GPU hours", *(f"{c.gpu_h:.2g}" if c.gpus else "" for c in made)),
        ("driver", *(f"{60 * c.driver_h:.2g} min" for c in made)),
        ("publishing", *(f"{60 * c.publish_h:.2g} min" for c in made)),
        ("wall time, start included", *(f"{c.wall_h:.2g} h" for c in made)),
        ("bounded by", *(c.bound for c in made)),
        ("nodes and GPUs, USD", *(f"{c.compute_usd:.2f}" for c in made)),
        ("requests, USD", *(f"{c.requests_usd:.2f}" for c in made)),
        ("catalogue, and USD a month", *(_kept(c.survey) for c in made)),
        ("out of another region, USD", *(f"{c.survey.fetched_bytes * ASSUMED['egress'].value:,.0f}" for c in made)),
    ]  # fmt: skip
    head = ("", *(f"{c.survey.name}, {f'{c.gpus} GPUs' if c.gpus else 'CPUs only'}" for c in made))
    parts = [
        f"On {nodes} reading nodes:",
        _table(head, rows),
        "Measured:",
        _table(
            ("constant", "unit", "from"), ((f"{c.value:.4g}", c.unit, c.source) for c in MEASURED.values())
        ),
        "Assumed:",
        _table(("constant", "unit", "why"), ((f"{c.value:.3g}", c.unit, c.source) for c in ASSUMED.values())),
        "\n".join(f"- {survey.name}: {said}" for survey in (desi(), nircam()) for said in survey.says),
    ]
    return "\n\n".join(parts)


def _kept(survey: Survey) -> str:
    size = survey.objects * survey.row_bytes
    return f"{_bytes(size)}, {size * ASSUMED['kept'].value:.2f}"


def _bytes(count: float) -> str:
    return f"{count / 1e12:.3g} TB" if count >= 1e12 else f"{count / 1e9:.3g} GB"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def in_page(text: str, made: str) -> str:
    """Put the tables between the marks of a page."""
    return re.sub(
        f"{re.escape(BEGIN)}.*{re.escape(END)}",
        lambda _: f"{BEGIN}\n\n{made}\n\n{END}",
        text,
        flags=re.DOTALL,
    )


def main(argv: Sequence[str] | None = None) -> None:
    line = argparse.ArgumentParser("python -m benchmarks.cost_model", description=__doc__)
    line.add_argument("--nodes", type=int, default=4)
    line.add_argument("--page", type=Path, help="page to write the tables into")
    arguments = line.parse_args(argv)
    made = tables(arguments.nodes)
    print(made)
    if arguments.page:
        arguments.page.write_text(in_page(arguments.page.read_text(), made))


if __name__ == "__main__":
    main()
