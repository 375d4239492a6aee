"""Whether a training run computes on GPUs, and whether the nodes of a cluster can hold its workers."""

import logging
import math
from collections.abc import Mapping, Sequence

from engine.errors import ResourceError
from engine.train.plan import TrainConfig

logger = logging.getLogger(__name__)

Node = Mapping[str, float]
"""What a node has, as Ray tells it: CPU, GPU and others by name."""


def uses_gpu(config: TrainConfig, nodes: Sequence[Node], may_grow: bool) -> bool:
    """Decide on the device, and refuse what would wait for resources for ever.

    A cluster that grows is not asked: what it has at the moment says nothing, and a run that goes on later should
    find the same device. There `train.device` alone decides, and "auto" means CPUs.

    Parameters
    ----------
    config
        What the workers ask for.
    nodes
        What the nodes of the cluster have in all, whether or not it is in use.
    may_grow
        Whether the cluster makes nodes on demand.

    Raises
    ------
    ResourceError
        If the cluster does not grow and its nodes cannot hold all workers and a reading task.
    """
    if may_grow:
        return _configured(config)
    use_gpu = config.device == "cuda" or (config.device == "auto" and fits(config, nodes, use_gpu=True))
    logger.info("training on %s: cluster has %g GPUs", "GPUs" if use_gpu else "CPUs", _sum(nodes, "GPU"))
    if not fits(config, nodes, use_gpu):
        _refuse(config, nodes, use_gpu)
    return use_gpu


def fits(config: TrainConfig, nodes: Sequence[Node], use_gpu: bool) -> bool:
    """Whether the nodes hold all workers at once, each on one node, and beside them a reading task.

    It need not be the node with the most room that reads: each is tried.
    """
    slots = [_slots(config, node, use_gpu) for node in nodes]
    for node, own in zip(nodes, slots, strict=True):
        left = node.get("CPU", 0) - config.read_cpus
        beside = _slots(config, {**node, "CPU": left}, use_gpu)
        if left >= 0 and sum(slots) - own + beside >= config.num_workers:
            return True
    return False


def _slots(config: TrainConfig, node: Node, use_gpu: bool) -> int:
    """Workers that a node holds."""
    by_cpu = math.floor(node.get("CPU", 0) / config.cpus_per_worker + 1e-9)  # 0.3 / 0.1 is below 3
    return max(0, min(by_cpu, math.floor(node.get("GPU", 0))) if use_gpu else by_cpu)


def _configured(config: TrainConfig) -> bool:
    use_gpu = config.device == "cuda"
    logger.info("training on %s, for which the cluster may grow", "GPUs" if use_gpu else "CPUs")
    if config.device == "auto":
        logger.warning("train.device is auto: on a cluster that grows that is CPUs; 'cuda' asks for GPUs")
    return use_gpu


def _refuse(config: TrainConfig, nodes: Sequence[Node], use_gpu: bool) -> None:
    each = f"{config.cpus_per_worker:g} CPUs" + (" and 1 GPU" if use_gpu else "")
    sizes = [f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes]
    told = "; ".join(sizes[:4]) + (f"; {len(sizes) - 4} more" if len(sizes) > 4 else "")
    raise ResourceError(
        "the cluster cannot give what training asks for",
        "train",
        got=f"{len(nodes)} nodes ({told})",
        expected=f"{config.num_workers} workers with {each}, each on one node, and {config.read_cpus:g} CPUs to read",
        hint="Lower train.num_workers or train.cpus_per_worker, set train.device, or set cluster.may_grow = true "
        "if the cluster scales by itself.",
    )


def _sum(nodes: Sequence[Node], name: str) -> float:
    return sum(node.get(name, 0) for node in nodes)
