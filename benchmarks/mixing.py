"""What experiments on mixing generated images into a training share: their options, and the batches."""

import argparse
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from engine.train.mixing import mixed_batches
from engine.train.plan import EpochPlan, MixPlan
from models.spec import Batch


def options(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Return a parser of the options of all such experiments; each says its defaults and adds its own."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int)
    parser.add_argument("--num-real", type=int, help="images that there are to learn from")
    parser.add_argument("--num-generated", type=int)
    parser.add_argument("--num-test", type=int)
    parser.add_argument("--alphas", type=float, nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of each network")
    parser.add_argument("--batch-rows", type=int)
    parser.add_argument("--noise-sigma", type=float, help="in units of 1000 counts")
    parser.add_argument("--generator", help="a family, or truth")
    parser.add_argument("--generator-core-s", type=float, help="seconds of CPU cores")
    parser.add_argument("--generator-preset", default="cpu64", help="settings of the family")
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, help="generators, samples and results of each alpha and seed are kept here"
    )
    parser.add_argument("--json", default="", help="write the numbers here too")
    parser.set_defaults(**defaults)
    return parser


def parsed(parser: argparse.ArgumentParser, words: list[str] | None = None) -> argparse.Namespace:
    """Read the options; alpha = 0, which all others are compared with, must be there."""
    args = parser.parse_args(words)
    if 0.0 not in args.alphas:
        parser.error("--alphas must hold 0: the others are compared with it")
    torch.set_num_threads(args.num_threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    return args


def told(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return some of the options, or all but those that say where results are written."""
    names = names or tuple(name for name in vars(args) if name not in ("folder", "json", "svg"))
    return {name: getattr(args, name) for name in names}


def mixed(
    args: argparse.Namespace, alpha: float, seed: int, real: pa.Table, made: pa.Table
) -> Iterator[Batch]:
    """Yield `--steps` batches of all columns, each generated with probability alpha, epoch after epoch over the real set."""
    rows = min(args.batch_rows, real.num_rows)
    steps = max(1, real.num_rows // rows)
    passes = 1.5 * steps * rows / made.num_rows
    mix = MixPlan(alpha, steps, (1.0, min(1.0, passes)))
    plan = EpochPlan(tuple(real.column_names), rows, real.num_rows, 0.0, 0.0, seed, mix)
    epochs = (mixed_batches([real], [made] * math.ceil(passes), plan, epoch) for epoch in itertools.count())
    yield from itertools.islice(itertools.chain.from_iterable(epochs), args.steps)
