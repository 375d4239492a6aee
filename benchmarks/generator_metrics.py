"""How far a set of generated galaxy images is from the real one: the published table, with the floor beside it.

    python -m benchmarks.generator_metrics REAL GENERATED [--training SET] [--source sersic] [--size 256] [--limit N] [--workers 2]
    python -m benchmarks.generator_metrics REAL --scaling 1 2 4 [--limit N]

All are folders (or URIs) in the layout of a source of galaxies; `python -m jobs synthesize` writes a Sersic set, and
`engine.synthetic.sersic.write_cube` any images. REAL should be held out, and `--training` names what was learned from.
Ray shares the images between its workers (RAY_ADDRESS names a cluster; `--pool`: processes of this machine, without
Ray): morphology is nearly all of the time (`engine.images.morphology.measure` says how much), power spectra nothing
beside it. Intervals are of 95 %, by bootstrap of both sets; those of precision, recall and Frechet distance by halves.

The floor is what the training set is from REAL: as many images as are compared, and nothing can be told to be closer.
Without one it is between halves of REAL, which are further from each other than whole sets are. `nearer` is the
probability that a generated image is nearer to a training image than an image of REAL is: 0.5 without memory, 1 for
copies. Distances of power are "released" (radial bins 0 to 14, as the published table) and "partitions" (as the paper
means); only the first is averaged. Orientation is on a line as published; `--circular` takes it on a circle. Images that
are not finite or constant are left out of all sets and counted (`unusable`); `kept` is the share of all images that distances
of morphology are of, without those that have no measure or are outside of the published cuts. Morphology
and power of SKIRT images are measured at their own size, which their fifth channel tells, as published. `--inception FILE` adds FID
and KID of the published pictures by the seed's network, `inception-2015-12-05.pt`; `frechet_pooled` is of pooled pixels
and no FID. `--scaling` measures REAL with so many workers one after the other, and says how many images a second that are.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import SKIRT_R, Piece, mapper, measures_of, only_usable, or_none, tell
from engine.images.morphology import PUBLISHED, MorphologyConfig
from engine.images.nearest import NearestConfig, features, nearest
from engine.schema import matrix
from engine.sources import SOURCES
from models.evaluation.distances import cut_size
from models.evaluation.frechet import frechet_distance, inception, kernel_distance, pictures
from models.evaluation.table import TableConfig
from models.evaluation.verdict import (
    KEPT,
    NEARER,
    UNITS,
    UNUSABLE,
    Value,
    floor,
    label,
    nearness,
    shown,
    takers,
    verdict,
)

PIECE = 8
"""Images that a worker takes at once."""
AT_ONCE = 256
"""Images that are compared with all training images at once."""
PLAIN = (*UNITS, NEARER, KEPT, UNUSABLE, "fid", "kid")
"""What is not shown in hundredths."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("real")
    parser.add_argument("generated", nargs="?")
    parser.add_argument(
        "--training", default="", help="what GENERATED was learned from, in the layout of REAL"
    )
    parser.add_argument("--source", default="sersic", choices=["sersic", "cosmos", "shera", "skirt"])
    parser.add_argument("--generated-source", default="sersic", help="layout of GENERATED")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--limit", type=int, default=None, help="images of REAL and GENERATED")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--pool", action="store_true", help="processes without Ray")
    parser.add_argument("--scaling", type=int, nargs="+", default=[], help="numbers of workers")
    parser.add_argument(
        "--softening", type=float, default=100.0, help="of asinh, for the features of pooled pixels"
    )
    parser.add_argument("--inception", default="", help="the seed's network, a TorchScript file")
    parser.add_argument("--circular", action="store_true")
    parser.add_argument("--exact", action="store_true", help="power without the published histograms")
    parser.add_argument("--repeats", type=int, default=5, help="of a floor between halves")
    parser.add_argument("--bootstrap", type=int, default=200, help="draws of the intervals")
    parser.add_argument("--json", default="", help="write the numbers here too")
    args = parser.parse_args()
    if not args.scaling and args.generated is None:
        parser.error("name GENERATED, or ask for --scaling")
    settings = PUBLISHED["skirt" if args.source == "skirt" else "cosmos"]
    real = list(images_of(args.real, args.source, args, args.limit))
    if args.scaling:
        print("\n".join(scaling(args, real, settings)))
        return
    generated = list(images_of(args.generated, args.generated_source, args, args.limit))
    training = list(images_of(args.training, args.source, args, None)) if args.training else []
    found = compared(args, settings, real, generated, training)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


def compared(
    args: argparse.Namespace,
    settings: MorphologyConfig,
    real: list[Piece],
    generated: list[Piece],
    training: list[Piece],
) -> dict[str, dict[str, Any]]:
    """Measure the sets, print the table, and return its numbers."""
    training, _ = only_usable(training)
    num = sum(len(ids) for ids, _ in generated)
    given = {"real": real, "generated": generated} | (
        {"training": first_of(training, num)} if training else {}
    )
    checked = {name: only_usable(pieces) for name, pieces in given.items()}
    sets = {name: pieces for name, (pieces, _) in checked.items()}
    images = {name: images_in(pieces) for name, pieces in sets.items()}
    size = cut_size(images["real"].shape[1], args.size)
    with mapper(args.workers, not args.pool) as mapped:
        measured = {
            name: replace(measures_of(pieces, settings, mapped, name), num_unusable=checked[name][1])
            for name, pieces in sets.items()
        }
    for name, found in measured.items():
        tell(name, found, size)
    config = TableConfig(size=size, circular=args.circular, histogram=not args.exact)
    space = NearestConfig(softening=args.softening)
    pooled = {name: features(values, space) for name, values in images.items()}

    def judged(name: str) -> dict[str, Value]:
        pair = pooled["real"], pooled[name]
        found = or_none(lambda: verdict(measured["real"], measured[name], pair, config, args.bootstrap))
        return takers(measured[name], size) | found

    row = judged("generated") | by_inception(args.inception, images["real"], images["generated"])
    if training:
        reference = features(images_in(training), space)
        far = {name: distances_from(reference, images[name], space) for name in ("real", "generated")}
        row |= or_none(
            lambda: {NEARER: nearness(far["generated"], far["real"], args.bootstrap)}, "look for copies"
        )
        beside = judged("training")
    else:
        beside = takers(measured["real"], size) | or_none(
            lambda: spread(floor(measured["real"], pooled["real"], config, args.repeats)), "floor"
        )
    print("\n".join(lines(row, beside, "floor" if training else "floor, of halves")))
    return {"distances": row, "floor": beside, "real": takers(measured["real"], size)}


def spread(found: Mapping[str, tuple[float, float]]) -> dict[str, Value]:
    """Means with a standard deviation to either side."""
    return {name: Value(mean, mean - scatter, mean + scatter) for name, (mean, scatter) in found.items()}


def first_of(pieces: list[Piece], num: int) -> list[Piece]:
    """Return the first images of a set, as many as the set that they are to be beside."""
    starts = np.cumsum([0, *(len(ids) for ids, _ in pieces)])
    left = [(max(num - start, 0), piece) for start, piece in zip(starts.tolist(), pieces, strict=False)]
    return [(ids[:most], part[:most]) for most, (ids, part) in left if most]


def images_in(pieces: list[Piece]) -> np.ndarray:
    """Return all images [N, C, S, S]."""
    return np.concatenate([part for _, part in pieces])


def distances_from(reference: np.ndarray, images: np.ndarray, space: NearestConfig) -> np.ndarray:
    """Distances [N] from the nearest of the reference; some images at once, for there may be many of both."""
    parts = [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
    return np.concatenate([nearest(part, reference, space)[0] for part in parts])


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
    rates, num = dict[int, float](), sum(len(ids) for ids, _ in pieces)
    for workers in args.scaling:
        with mapper(workers, not args.pool) as mapped:
            measures_of(pieces[:1] * workers, settings, mapped, f"{workers} workers, to start")
            began = time.monotonic()
            measures_of(pieces, settings, mapped, f"{workers} workers")
            rates[workers] = num / (time.monotonic() - began)
    first = rates[args.scaling[0]]
    head = f"{'workers':>8}{'images/s':>12}{'of the first':>14}"
    return [head, *(f"{n:8d}{rate:12.2f}{rate / first:14.2f}" for n, rate in rates.items())]


def lines(row: dict[str, Value], beside: dict[str, Value], title: str = "floor") -> list[str]:
    """Format a row and its floor for people: distances in hundredths as in the publication, the others as they are."""
    body = []
    for name, value in row.items():
        factor = 1.0 if name in PLAIN else 100.0
        least = shown(beside[name], factor) if name in beside else ""
        body.append(f"{label(name):30}{shown(value, factor):>26}{least:>26}")
    return [f"{'x 0.01':30}{'generated':>26}{title:>26}", *body]


def images_of(uri: str, source: str, args: argparse.Namespace, limit: int | None) -> Iterator[Piece]:
    """Read a set piece by piece, `limit` images at most; what is rejected is told."""
    kind, channels, left = SOURCES[source], 5 if args.source == "skirt" else 1, limit
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
