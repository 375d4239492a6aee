"""How far a set of generated galaxy images is from the real one: the published table, with the floor beside it.

    python -m benchmarks.generator_metrics REAL GENERATED [--training SET] [--source sersic] [--size 256] [--limit N] [--workers 2]
    python -m benchmarks.generator_metrics REAL --scaling 1 2 4 [--limit N]

Each set is a folder (or URI) that our own jobs have published or staged, known by its manifest (a catalogue of `jobs
augment`, staged cutouts; `--channels` says which bands where there are several, the first of them is what morphology and
power are of), or one in the layout of a source of galaxies: `python -m jobs synthesize` writes a Sersic set, and
`engine.synthetic.sersic.write_cube` any images. REAL should be held out, and `--training` names what was learned from.
Ray shares the images between its workers (all of a cluster's, if RAY_ADDRESS names one; `--pool`: processes of this
machine, without Ray): morphology is nearly all of the time (`engine.images.morphology.measure` says how much), power
spectra nothing beside it. Intervals are of 95 %, by bootstrap of both sets; those of what looks at features by halves.

The floor is what the training set is from REAL: as many images as are compared, and nothing can be told to be closer.
Without one it is between halves of REAL, which are further from each other than whole sets are. `nearer` is the
probability that a generated image is nearer to a training image than an image of REAL is: 0.5 without memory, 1 for
copies. Distances of power are "released" (radial bins 0 to 14, as the published table) and "partitions" (as the paper
means); only the first is averaged. Orientation is on a line as published; `--circular` takes it on a circle. Images that
are not finite, or constant in a channel (a band that a cutout lacks), are left out of all sets and counted (`unusable`);
`kept` is the share of all images that distances of morphology are of, without those that have no measure or are outside of
the published cuts. `--source skirt`: morphology and power are measured at the images' own size, which their fifth channel
tells, as published, and colours too.
`--inception FILE` adds FID and KID of the published pictures by the seed's network, `inception-2015-12-05.pt`, with floor and
intervals (a draw of 50,000 images is some 10^12 operations, a minute or so: `--bootstrap`); `frechet_pooled` is of pooled pixels and no FID.

No image is kept (`benchmarks.gathering` says what is): sets of 50,000 images of 256 pixels want about 1.2 GB, as random
numbers in such arrays did, and with `--inception` 4 GB, which is counted and not measured. Their intervals take time: of a core 7 s a
draw for distances and half a minute for precision and recall, so that 200 draws are more than two hours.
`--scaling` measures REAL with so many workers one after the other, and says how many images a second that are; `--json`
writes them.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gathering import Gathered, gathered
from benchmarks.image_sets import ImageFiles
from benchmarks.measuring import Piece, mapper, measured_of, measures_of, only_usable, or_none, tell
from engine.images.morphology import PUBLISHED, MorphologyConfig
from engine.images.nearest import NearestConfig, nearest_of
from engine.images.own_size import SKIRT_R, has_size
from models.evaluation.distances import cut_size
from models.evaluation.frechet import Extract, inception, pictures
from models.evaluation.table import TableConfig
from models.evaluation.verdict import (
    KEPT,
    NEARER,
    NETWORK,
    UNITS,
    UNUSABLE,
    Value,
    by_network,
    floor,
    label,
    nearness,
    network_floor,
    shown,
    spread,
    takers,
    verdict,
)

AT_ONCE = 256
"""Images that are compared with all training images at once."""
PLAIN = (*UNITS, NEARER, KEPT, UNUSABLE, *NETWORK)
"""What is not shown in hundredths."""


def main() -> None:
    parser = options()
    args = parser.parse_args()
    if not args.scaling and args.generated is None:
        parser.error("name GENERATED, or ask for --scaling")
    if args.scaling and not args.pool and os.environ.get("RAY_ADDRESS"):
        parser.error(
            "--scaling wants a Ray of its own for each number of workers, but RAY_ADDRESS names a cluster, which"
            " measures with all that it has: unset it, or use --pool"
        )
    settings = PUBLISHED["skirt" if args.source == "skirt" else "cosmos"]
    real = images_of(args.real, args.source, args, args.limit)
    if args.scaling:
        rates = scaling(args, real, settings)
        print("\n".join(scaling_lines(rates)))
        found: dict[str, Any] = {"images_per_s": rates}
    else:
        generated = images_of(args.generated, args.generated_source, args, args.limit)
        training = images_of(args.training, args.source, args, None) if args.training else None
        found = compared(args, settings, real, generated, training)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


def options() -> argparse.ArgumentParser:
    """Return what the command can be asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("real")
    add("generated", nargs="?")
    add("--training", default="", help="what GENERATED was learned from, in the layout of REAL")
    add("--source", default="sersic", choices=["sersic", "cosmos", "shera", "skirt"])
    add("--generated-source", default="sersic", help="layout of GENERATED")
    add("--size", type=int, default=256)
    add("--channels", type=int, nargs="+", default=[], help="of published sets with several, by number")
    add("--limit", type=int, default=None, help="images of REAL and GENERATED")
    add("--workers", type=int, default=os.cpu_count() or 1, help="of this machine, not of a cluster")
    add("--pool", action="store_true", help="processes without Ray")
    add("--scaling", type=int, nargs="+", default=[], help="numbers of workers")
    add("--softening", type=float, default=100.0, help="of asinh, for the features of pooled pixels")
    add("--inception", default="", help="the seed's network, a TorchScript file")
    add("--circular", action="store_true")
    add("--exact", action="store_true", help="power without the published histograms")
    add("--repeats", type=int, default=5, help="of a floor between halves")
    add("--bootstrap", type=int, default=200, help="draws of the intervals")
    add("--json", default="", help="write the numbers here too")
    return parser


def images_of(uri: str, source: str, args: argparse.Namespace, limit: int | None) -> ImageFiles:
    """Return a set that the arguments name."""
    num = 5 if args.source == "skirt" else 1
    return ImageFiles(uri, source, args.size, num, args.channels, limit)


def compared(
    args: argparse.Namespace,
    settings: MorphologyConfig,
    real: Iterable[Piece],
    generated: Iterable[Piece],
    training: Iterable[Piece] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure the sets, print the table, and return its numbers."""
    given = {"real": real, "generated": generated} | ({"training": training} if training else {})
    num_channels = channels_of(given, settings)
    size = cut_size(num_channels, args.size)
    sets = all_gathered(args, settings, given)
    for name, found in sets.items():
        tell(name, found.measures, size)
    row = judged(args, sets, "generated", size)
    if training:
        row |= or_none(partial(copies, args, sets), "look for copies")
        beside, title = judged(args, sets, "training", size), "floor"
        title += fewer(len(sets["training"].measures), len(sets["generated"].measures))
    else:
        beside, title = floor_of_halves(args, sets["real"], size), "floor, of halves"
    print("\n".join(lines(row, beside, title)))
    counts = {name: len(found.measures) for name, found in sets.items()}
    return {"distances": row, "floor": beside, "real": takers(sets["real"].measures, size), "images": counts}


def channels_of(given: Mapping[str, Iterable[Piece]], settings: MorphologyConfig) -> int:
    """Return how many channels the sets have; refuse what cannot be compared, before anything is measured."""
    first = {name: next(iter(pieces), None) for name, pieces in given.items()}
    found = {name: piece[1].shape[1] for name, piece in first.items() if piece}
    if len({*found.values()}) > 1:
        told = ", ".join(f"{name} {num}" for name, num in found.items())
        raise SystemExit(f"channels of the sets differ: {told}; --channels chooses some")
    num = next(iter(found.values()), 1)
    if has_size(num) != (settings == PUBLISHED["skirt"]):
        raise SystemExit(f"{num} channels: five are g, r, i, z and size, of --source skirt and of no other")
    return num


def all_gathered(
    args: argparse.Namespace, settings: MorphologyConfig, given: Mapping[str, Iterable[Piece]]
) -> dict[str, Gathered]:
    """Go through each set once; of the training set as many are measured as are compared."""
    space, extract = NearestConfig(softening=args.softening), pictured(args.inception)
    sets = dict[str, Gathered]()
    with mapper(args.workers, not args.pool) as mapped:
        for name, pieces in given.items():
            most = len(sets["generated"].measures) if name == "training" else None
            sets[name] = gathered(name, pieces, settings, mapped, space, extract, most)
    return sets


def pictured(path: str) -> Extract | None:
    """Return what gives features of the published pictures of images [B, C, S, S], of the r band where there is one."""
    if not path:
        return None
    import matplotlib as mpl

    extract, colours = inception(path), mpl.colormaps["magma"](np.arange(256))[:, :3]

    def of(images: np.ndarray) -> np.ndarray:
        channel = SKIRT_R if has_size(images.shape[1]) else 0
        return extract(pictures(images[:, channel], colours))

    return of


def judged(args: argparse.Namespace, sets: Mapping[str, Gathered], name: str, size: int) -> dict[str, Value]:
    """Distances of a set from the real one; what cannot be measured is left out and told."""
    real, other = sets["real"], sets[name]
    pooled = real.pooled, other.pooled
    found = verdict(real.measures, other.measures, pooled, table_config(args, size), args.bootstrap)
    row = takers(other.measures, size) | measured_of(name, found)
    if real.deep is None or other.deep is None:
        return row
    return row | or_none(partial(by_network, (real.deep, other.deep), args.bootstrap), "FID and KID")


def table_config(args: argparse.Namespace, size: int) -> TableConfig:
    """Return how distances are taken."""
    return TableConfig(size=size, circular=args.circular, histogram=not args.exact)


def copies(args: argparse.Namespace, sets: Mapping[str, Gathered]) -> dict[str, Value]:
    """Whether generated images are nearer to training images than real ones are."""
    reference, side = sets["training"].all_pooled, NearestConfig().side
    far = {name: distances_from(reference, sets[name].pooled, side) for name in ("real", "generated")}
    return {NEARER: nearness(far["generated"], far["real"], args.bootstrap)}


def distances_from(reference: np.ndarray, pooled: np.ndarray, side: int) -> np.ndarray:
    """Distances [N] from the nearest of the reference; some images at once, for there may be many of both."""
    parts = [pooled[start : start + AT_ONCE] for start in range(0, len(pooled), AT_ONCE)]
    return np.concatenate([nearest_of(part, reference, side)[0] for part in parts])


def fewer(num: int, num_compared: int) -> str:
    """Say of a floor that it is of fewer images than are compared."""
    if num >= num_compared:
        return ""
    print(f"the training set has {num} images, {num_compared} are compared: the floor of as many is lower")
    return f", of {num} only"


def floor_of_halves(args: argparse.Namespace, real: Gathered, size: int) -> dict[str, Value]:
    """Distances between halves of the real set."""
    found = floor(real.measures, real.pooled, table_config(args, size), args.repeats)
    row = takers(real.measures, size) | measured_of("floor", found)
    if real.deep is None:
        return row
    deep = real.deep
    return row | or_none(lambda: spread(network_floor(deep, args.repeats)), "floor of FID and KID")


def scaling(
    args: argparse.Namespace, pieces: Iterable[Piece], settings: MorphologyConfig
) -> dict[int, float]:
    """Images a second by number of workers, after each has measured one piece: Ray and statmorph are loaded then."""
    channels_of({"real": pieces}, settings)
    kept = [piece for piece in map(only_usable, pieces) if len(piece[1])]
    if not kept:
        raise SystemExit("no image can be measured")
    rates, first = dict[int, float](), kept[0]
    for workers in args.scaling:
        with mapper(workers, not args.pool) as mapped:
            measures_of([first] * workers, settings, mapped, f"{workers} workers, to start")
            began = time.monotonic()
            num = len(measures_of(kept, settings, mapped, f"{workers} workers"))
            rates[workers] = num / (time.monotonic() - began)
    return rates


def scaling_lines(rates: Mapping[int, float]) -> list[str]:
    """Format rates beside the first."""
    first = next(iter(rates.values()))
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


if __name__ == "__main__":
    main()
