"""How far a set of generated galaxy images is from the real one: the published table, with the floor beside it.

    python -m benchmarks.generator_metrics REAL GENERATED [--source sersic] [--size 256] [--limit N] [--workers 2]
    python -m benchmarks.generator_metrics REAL --scaling 1 2 4 [--limit N]

Both are folders (or URIs) in the layout of a source of galaxies; `python -m jobs synthesize` writes a Sersic set, and
`engine.synthetic.sersic.write_cube` any images. Ray shares the images between its workers (RAY_ADDRESS names a cluster;
`--pool`: processes of this machine, without Ray): morphology takes 0.3 s an image at 64 pixels and 2 s at 256, power
spectra nothing beside it. Intervals are of 95 % by bootstrap of both sets. The floor is the distance between halves of
REAL: nothing can be told to be closer. Distances of power are "released" (radial bins 0 to 14, as the published table)
and "partitions" (as the paper means); only the first is averaged. Orientation is on a line as published; `--circular`
takes it on a circle. Images of SKIRT are measured as they were resized; the publication gives them their own size back
before, so its table is another. `--inception FILE` adds FID and KID of the published pictures by the seed's network,
`inception-2015-12-05.pt`; `frechet_pooled` is of pooled pixels and no FID. `--scaling` measures REAL with so many
workers one after the other, and says how many images a second that are.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measuring import SKIRT_R, Piece, mapper, measures_of
from engine.images.morphology import PUBLISHED, MorphologyConfig
from engine.images.nearest import NearestConfig, features
from engine.schema import matrix
from engine.sources import SOURCES
from models.evaluation.frechet import frechet_distance, inception, kernel_distance, pictures
from models.evaluation.table import TableConfig, floor
from models.evaluation.verdict import UNITS, Value, shown, verdict

PIECE = 8
"""Images that a worker takes at once."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("real")
    parser.add_argument("generated", nargs="?")
    parser.add_argument("--source", default="sersic", choices=["sersic", "cosmos", "shera", "skirt"])
    parser.add_argument("--generated-source", default="sersic", help="layout of GENERATED")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--limit", type=int, default=None, help="images of each set")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--pool", action="store_true", help="processes without Ray")
    parser.add_argument("--scaling", type=int, nargs="+", default=[], help="numbers of workers")
    parser.add_argument(
        "--softening", type=float, default=100.0, help="of asinh, for the features of pooled pixels"
    )
    parser.add_argument("--inception", default="", help="the seed's network, a TorchScript file")
    parser.add_argument("--circular", action="store_true")
    parser.add_argument("--exact", action="store_true", help="power without the published histograms")
    parser.add_argument("--repeats", type=int, default=5, help="of the floor")
    parser.add_argument("--bootstrap", type=int, default=200, help="draws of the intervals")
    parser.add_argument("--json", default="", help="write the numbers here too")
    args = parser.parse_args()
    if not args.scaling and args.generated is None:
        parser.error("name GENERATED, or ask for --scaling")
    settings = PUBLISHED["skirt" if args.source == "skirt" else "cosmos"]
    real = list(images_of(args.real, args.source, args))
    if args.scaling:
        print("\n".join(scaling(args, real, settings)))
        return
    generated = list(images_of(args.generated, args.generated_source, args))
    found = compared(args, settings, real, generated)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


def compared(
    args: argparse.Namespace, settings: MorphologyConfig, real: list[Piece], generated: list[Piece]
) -> dict[str, dict[str, object]]:
    """Measure both sets, print the table, and return its numbers."""
    with mapper(args.workers, not args.pool) as mapped:
        ours, theirs = (
            measures_of(pieces, settings, mapped, name, args.size)
            for name, pieces in (("real", real), ("generated", generated))
        )
    config = TableConfig(size=args.size, circular=args.circular, histogram=not args.exact)
    images = tuple(np.concatenate([images for _, images in pieces]) for pieces in (real, generated))
    pooled = NearestConfig(softening=args.softening)
    row = verdict(
        ours, theirs, (features(images[0], pooled), features(images[1], pooled)), config, args.bootstrap
    )
    row |= by_inception(args.inception, *images)
    beside = floor(ours, config, args.repeats)
    print("\n".join(lines(row, beside)))
    return {"distances": {name: list(value) for name, value in row.items()}, "floor": dict(beside)}


def by_inception(path: str, real: np.ndarray, generated: np.ndarray) -> dict[str, Value]:
    """FID and KID of the published pictures, of the r band where there are several; nothing without the network."""
    if not path:
        return {}
    import matplotlib as mpl

    extract, colours = inception(path), mpl.colormaps["magma"](np.arange(256))[:, :3]
    channel = SKIRT_R if real.shape[1] > 1 else 0
    first, second = (extract(pictures(images[:, channel], colours)) for images in (real, generated))
    return {"fid": Value(frechet_distance(first, second)), "kid": Value(kernel_distance(first, second))}


def scaling(args: argparse.Namespace, pieces: list[Piece], settings: MorphologyConfig) -> list[str]:
    """Images a second by number of workers, after each has measured one piece: Ray and statmorph are loaded then."""
    rates, num = {}, sum(len(ids) for ids, _ in pieces)
    for workers in args.scaling:
        with mapper(workers, not args.pool) as mapped:
            measures_of(pieces[:1] * workers, settings, mapped, f"{workers} workers, to start", args.size)
            began = time.monotonic()
            measures_of(pieces, settings, mapped, f"{workers} workers", args.size)
            rates[workers] = num / (time.monotonic() - began)
    first = rates[args.scaling[0]]
    head = f"{'workers':>8}{'images/s':>12}{'of the first':>14}"
    return [head, *(f"{n:8d}{rate:12.2f}{rate / first:14.2f}" for n, rate in rates.items())]


def lines(row: dict[str, Value], beside: dict[str, tuple[float, float]]) -> list[str]:
    """Format a row and its floor for people: distances in hundredths as in the publication, the others as they are."""
    body = []
    for name, value in row.items():
        factor = 1.0 if name in (*UNITS, "fid", "kid") else 100.0
        least = f"{100 * beside[name][0]:12.2f} +- {100 * beside[name][1]:.2f}" if name in beside else ""
        body.append(f"{name:24}{shown(value, factor):>26}{least}")
    return [f"{'x 0.01':24}{'generated':>26}{'floor':>12}", *body]


def images_of(uri: str, source: str, args: argparse.Namespace) -> Iterator[Piece]:
    """Read a set piece by piece; what is rejected is told."""
    kind, channels, left = SOURCES[source], 5 if args.source == "skirt" else 1, args.limit
    wanted = {"size": args.size} | (
        {"channels": channels} if "channels" in kind.config_class.model_fields else {}
    )
    opened = kind(uri, config=kind.config_class(**wanted))
    for unit in opened.plan():
        if left == 0:
            return
        table = opened.read(unit)
        if table.rejected.num_rows:
            print(f"{unit.key}: {table.rejected['reason'].value_counts().to_pylist()}")
        images = matrix(table.rows, "image").reshape(-1, channels, args.size, args.size)[:left]
        ids = table.rows["object_id"].to_pylist()
        left = None if left is None else left - len(images)
        for start in range(0, len(images), PIECE):
            yield ids[start : min(start + PIECE, len(images))], images[start : start + PIECE]


if __name__ == "__main__":
    main()
