"""How long new ranks from labels take at release scale, and whether they are Astronomaly's.

    python -m benchmarks.rerank [--rows 2000000 10000000] [--latents 10] [--labels 50] [--method astronomaly] [--folder DIR]

Catalogues of random latent coordinates with some clusters in them are published as partitions (not timed), and the
objects with the highest scores are labelled in a CSV file. Timed is the command that an astronomer gives,
`python -m jobs rerank CATALOGUE --labels FILE`, in a process of its own: start-up, looking up the objects of the labels,
learning, both passes over the partitions, scores written as Parquet. The smallest catalogue comes first, and peaks are of
the largest process so far: a catalogue that adds nothing to the peak needs no more memory.

Beside it, on `--compare` rows of the last, the method taken straight. Astronomaly: scikit-learn's forest row by row of
the whole matrix and a k-d tree, with the sums of these rows alone, labels as predicted. Protege: scikit-learn's
`GaussianProcessRegressor.predict(return_std=True)` and SciPy's normal distribution. Spearman's rank correlation with ours
on the same rows. Times of this comparison are without the fit, which both need.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.spatial import KDTree
from scipy.stats import norm, spearmanr

from catalogs.release import Release, load_release
from catalogs.spectral_anomaly import SPEC
from engine.column import Column
from engine.commit.manifest import DataFile, Manifest, Version
from engine.rows import DEC, FLAGS, RA
from engine.schema import list_array
from engine.storage import Storage
from jobs.catalogue import RerankConfig
from jobs.rerank import learned
from models.reranking.labelled import Labelled

PARTITION_ROWS = 500_000
NUM_CLUSTERS = 20
CREATED = "2026-01-01T00:00:00+00:00"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        type=lambda text: int(float(text)),
        nargs="+",
        default=[10_000_000],
        help="one or more sizes",
    )
    parser.add_argument("--latents", type=int, default=10)
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--method", choices=("astronomaly", "protege"), default="astronomaly")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compare", type=int, default=50_000, help="rows of the straight implementation")
    parser.add_argument(
        "--folder", default="", help="where the catalogue is written (default: a temporary one)"
    )
    parser.add_argument("--json", default="", help="write the numbers here too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        releases = [write_catalogue(args, rows, f"{folder}/{rows}") for rows in sorted(set(args.rows))]
        measured = [measure(args, release) for release in releases]
        compared = compare(args, releases[-1])
    for name in measured[0]:
        print(f"{name:34} {' '.join(shown(numbers[name]) for numbers in measured)}")
    for name, value in compared.items():
        print(f"{name:34} {shown(value)}")
    if args.json:
        numbers = {"measured": measured, "compared": compared}
        Path(args.json).write_text(json.dumps(numbers, indent=1) + "\n")


def shown(value: float | str) -> str:
    return f"{value:12.6g}" if isinstance(value, float) else f"{value:>12}"


def measure(args: argparse.Namespace, release: Release) -> dict[str, float | int | str]:
    """Run the job on one catalogue."""
    labels = write_labels(args, release)
    settings = (f"-orerank.method={args.method}", f"-orerank.num_threads={args.threads}")
    line = [
        sys.executable,
        "-m",
        "jobs",
        "rerank",
        release.root,
        "--labels",
        str(labels),
        "--who",
        "benchmark",
    ]
    before, start = spent(), time.perf_counter()
    done = subprocess.run([*line, *settings, "--json"], check=True, stdout=subprocess.PIPE, text=True)
    seconds, after = time.perf_counter() - start, spent()
    said = json.loads(done.stdout)
    written = sum(path.stat().st_size for path in Path(release.root, "reranks").rglob("*.parquet"))
    return {
        "rows": said["rows"], "latents": args.latents, "labels": said["labels"], "method": said["method"],
        "seconds": seconds, "CPU seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak memory so far [GiB]": after.ru_maxrss / 2**20, "written [MB]": written / 1e6,
    }  # fmt: skip


def spent() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_CHILDREN)


def draw(num_rows: int, num_latents: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents in clusters of different width, and a score that grows with the distance from the middle of each."""
    centres = np.random.default_rng(0).normal(size=(NUM_CLUSTERS, num_latents))
    rng = np.random.default_rng([1, seed])
    offset = rng.normal(size=(num_rows, num_latents)) * rng.gamma(4, 0.1, (num_rows, 1))
    latent = (centres[rng.integers(0, NUM_CLUSTERS, num_rows)] + offset).astype(np.float32)
    score = np.linalg.norm(offset, axis=1) + rng.exponential(0.3, num_rows)
    return latent, score.astype(np.float32)


def write_catalogue(args: argparse.Namespace, rows: int, folder: str) -> Release:
    Path(folder).mkdir()
    columns = (
        Column("targetid", "int64", ""), Column("survey", "string", ""), Column("program", "string", ""), RA, DEC,
        Column("latent_mean", "float32", "", length=args.latents), Column("anomaly_score", "float32", ""), FLAGS,
    )  # fmt: skip
    files = []
    for number, first in enumerate(range(0, rows, PARTITION_ROWS)):
        num_rows = min(PARTITION_ROWS, rows - first)
        latent, score = draw(num_rows, args.latents, number)
        table = pa.table({
            "targetid": np.arange(num_rows) + first + 2**60, "survey": pa.array(["main"] * num_rows),
            "program": pa.array(["dark"] * num_rows), "latent_mean": list_array(latent), "anomaly_score": score,
            "ra": np.full(num_rows, 150.0), "dec": np.zeros(num_rows), "flags": np.zeros(num_rows, np.int32),
        })  # fmt: skip
        path = f"{number:06d}.parquet"
        pq.write_table(table, f"{folder}/{path}", row_group_size=50_000, compression="zstd")
        files.append(DataFile(path=path, role="data", rows=num_rows, num_bytes=0, sha256=""))
    publish(folder, files, columns)
    return load_release(folder, Storage())


def publish(folder: str, files: list[DataFile], columns: tuple[Column, ...]) -> None:
    """Write a manifest that names the files, and the version that names it; nothing else is read here."""
    rows, declared = sum(file.rows for file in files), tuple(asdict(column) for column in columns)
    manifest = Manifest("0", SPEC.name, "hats", "v1", CREATED, declared, 0, tuple(files), rows, rows, {}, 0)
    Path(folder, "manifest.json").write_text(manifest.to_json())
    version = Version(1, 0, "0", "manifest.json", CREATED, rows, 0)
    Path(folder, "versions").mkdir()
    Path(folder, "versions", "000001.json").write_text(json.dumps(asdict(version)))


def write_labels(args: argparse.Namespace, release: Release) -> Path:
    """Write the labels of `judge` as a person would hand them in."""
    _, score = next(rows_of(release))
    top = np.argsort(-score)[: args.labels]
    lines = [
        f"main/dark/{row + 2**60},0,{label:g}"
        for row, label in zip(top, judge(args, release).labels, strict=True)
    ]
    path = Path(release.root).with_suffix(".csv")
    path.write_text("\n".join([",score,human_label", *lines]) + "\n")
    return path


def judge(args: argparse.Namespace, release: Release) -> Labelled:
    """Labels of the rows with the highest scores of the first partition: interesting in some clusters only."""
    latent, score = next(rows_of(release))
    top = np.argsort(-score)[: args.labels]
    centres = np.random.default_rng(0).normal(size=(NUM_CLUSTERS, args.latents))
    cluster = np.argmin(((latent[top, None] - centres) ** 2).sum(2), 1)
    return Labelled(latent[top], np.where(cluster % 3 == 0, 5.0, cluster % 2).astype(float))


def rows_of(release: Release) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for uri in release.uris("data"):
        table = pq.read_table(uri, columns=["latent_mean", "anomaly_score"])
        latent = table["latent_mean"].combine_chunks().flatten().to_numpy()
        yield latent.reshape(table.num_rows, -1), table["anomaly_score"].to_numpy()


def compare(args: argparse.Namespace, release: Release) -> dict[str, float]:
    """Time the method taken straight, and ours, on the first rows alone."""
    latent, score = next(rows_of(release))
    latent, score = latent[: args.compare], score[: args.compare]
    labelled = judge(args, release)
    straight = {"astronomaly": straight_astronomaly, "protege": straight_protege}[args.method](labelled)
    start = time.process_time()
    expected = straight(latent, score)
    seconds = time.process_time() - start
    ours = learned(labelled, RerankConfig(method=args.method))
    ours.apply(latent[:9], score[:9], ours.totals(latent[:9], score[:9]))  # compiled code is loaded
    start = time.process_time()
    found = ours.apply(latent, score, ours.totals(latent, score))["rerank_score"]
    return {
        "straight [CPU s per million rows]": seconds / len(latent) * 1e6,
        "ours [CPU s per million rows]": (time.process_time() - start) / len(latent) * 1e6,
        "Spearman with straight": float(spearmanr(found, expected).statistic),
        "Spearman with raw score": float(spearmanr(found, score).statistic),
        "largest difference": float(np.abs(found - expected).max()),
    }


def straight_astronomaly(labelled: Labelled) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(200, random_state=0).fit(labelled.features, labelled.labels)

    def scores(latent: np.ndarray, score: np.ndarray) -> np.ndarray:
        user = forest.predict(latent)
        distance, _ = KDTree(labelled.features).query(latent)
        raw = 5 * (score - score.min()) / (score.max() - score.min())
        return raw * np.tanh(np.exp(distance / distance.mean()) - 1 + np.arctanh(0.1 + 0.85 * user / 5))

    return scores


def straight_protege(labelled: Labelled) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    process = GaussianProcessRegressor(Matern() + WhiteKernel(), random_state=0)
    process.fit(labelled.features, labelled.labels)

    def scores(latent: np.ndarray, score: np.ndarray) -> np.ndarray:  # noqa: ARG001 - Protege needs no score
        mean, sigma = process.predict(latent, return_std=True)
        z = (mean - labelled.labels.max() - 0.5) / sigma
        return sigma * (z * norm.cdf(z) + norm.pdf(z))

    return scores


if __name__ == "__main__":
    main()
