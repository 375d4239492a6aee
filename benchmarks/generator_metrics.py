"""How far a set of generated galaxy images is from the real one: the published table, with the floor beside it.

    python -m benchmarks.generator_metrics REAL GENERATED [--source sersic] [--size 256] [--limit N] [--workers 2]

Both are folders (or URIs) in the layout of a source of galaxies; `python -m jobs synthesize` writes a Sersic set, and
`engine.synthetic.sersic.write_cube` any images. Morphology takes 0.3 s an image at 64 pixels and 2 s at 256, power spectra
nothing beside it. The floor is the distance between halves of REAL: nothing can be told to be closer. Distances of
power are "released" (radial bins 0 to 14, as the published table) and "partitions" (as the paper means); only
the first is averaged. Orientation is on a line as published; `--circular` takes it on a circle. Images of SKIRT are
measured as they were resized; the publication gives them their own size back before, so its table is another.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from engine.images.morphology import PUBLISHED, MorphologyConfig, failures, measure
from engine.images.power import radial_amplitude
from engine.schema import matrix
from engine.sources import SOURCES
from models.evaluation.distances import g_minus_i, keep
from models.evaluation.table import SetMeasures, TableConfig, compare, cuts_for, floor, lines

PIECE = 8
"""Images that a worker takes at once."""
SKIRT_G, SKIRT_R, SKIRT_I = 0, 1, 2

Piece = tuple[list[int], np.ndarray]
"""Identifiers and images [B, C, S, S]."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("real")
    parser.add_argument("generated")
    parser.add_argument("--source", default="sersic", choices=["sersic", "cosmos", "shera", "skirt"])
    parser.add_argument("--generated-source", default="sersic", help="layout of GENERATED")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--limit", type=int, default=None, help="images of each set")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--circular", action="store_true")
    parser.add_argument("--exact", action="store_true", help="power without the published histograms")
    parser.add_argument("--repeats", type=int, default=5, help="of the floor")
    parser.add_argument("--json", default="", help="write the numbers here too")
    args = parser.parse_args()
    settings = PUBLISHED["skirt" if args.source == "skirt" else "cosmos"]
    sets = []
    for uri, source in ((args.real, args.source), (args.generated, args.generated_source)):
        pieces = images_of(uri, source, args.size, 5 if args.source == "skirt" else 1, args.limit)
        sets.append(measures_of(pieces, settings, args.workers, uri, args.size))
    config = TableConfig(size=args.size, circular=args.circular, histogram=not args.exact)
    row, beside = compare(*sets, config), floor(sets[0], config, args.repeats)
    print("\n".join(lines(row, beside)))
    if args.json:
        Path(args.json).write_text(json.dumps({"distances": row, "floor": beside}, indent=1))


def images_of(uri: str, source: str, size: int, channels: int, limit: int | None) -> Iterator[Piece]:
    """Read a set piece by piece; what is rejected is told."""
    kind = SOURCES[source]
    wanted = {"size": size} | ({"channels": channels} if "channels" in kind.config_class.model_fields else {})
    opened = kind(uri, config=kind.config_class(**wanted))
    left = limit
    for unit in opened.plan():
        if left == 0:
            return
        table = opened.read(unit)
        if table.rejected.num_rows:
            print(f"{unit.key}: {table.rejected['reason'].value_counts().to_pylist()}")
        images = matrix(table.rows, "image").reshape(-1, channels, size, size)[:left]
        ids = table.rows["object_id"].to_pylist()
        left = None if left is None else left - len(images)
        for start in range(0, len(images), PIECE):
            yield ids[start : min(start + PIECE, len(images))], images[start : start + PIECE]


def measures_of(
    pieces: Iterator[Piece], settings: MorphologyConfig, workers: int, name: str, size: int
) -> SetMeasures:
    """Measure a set in several processes, and say how many images failed and are left out."""
    started = time.monotonic()
    task = partial(measure_piece, settings)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        parts = list(pool.imap(task, pieces))
    if not parts:
        raise SystemExit(f"{name}: no image in it")
    morphology = {key: np.concatenate([part[0][key] for part in parts]) for key in parts[0][0]}
    spectra = np.concatenate([part[1] for part in parts])
    kept = keep(morphology, cuts_for(size))
    seconds = time.monotonic() - started
    print(f"{name}: {len(spectra)} images, {len(spectra) / seconds:.2f} a second in {workers} processes")
    print(f"  flags: {failures(morphology)}")
    print(f"  kept {kept.num_kept}; undefined {kept.undefined}; outliers {kept.outliers}")
    return SetMeasures(morphology, spectra)


def measure_piece(settings: MorphologyConfig, piece: Piece) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Morphology and power spectra of some images."""
    ids, images = piece
    measured = measure(images[:, settings.channel], ids, settings)
    if images.shape[1] > SKIRT_I:
        measured |= {"g_minus_i": g_minus_i(images[:, SKIRT_G], images[:, SKIRT_I])}
    return measured, radial_amplitude(images[:, SKIRT_R if images.shape[1] > 1 else 0])


if __name__ == "__main__":
    main()
