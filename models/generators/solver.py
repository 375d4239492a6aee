"""Flows from noise to what is to be drawn: times of the steps, and the solver of their differential equation."""

# B rows

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""(x [B, ...], time) to dx / dt."""


def step_times(steps: int, power: float) -> list[float]:
    """Give times 1 - (1 - n / steps)^power from 0 to 1, `steps` + 1 values."""
    return [1 - (1 - n / steps) ** power for n in range(steps + 1)]


def integrated(velocity: Velocity, x: Tensor, times: list[float]) -> Tensor:
    """Solve dx / dt = velocity(x, t) from the first of `times` to the last by Heun's method of second order.

    A step that ends at time 1 is one of Euler's, as in Karras et al. (2022, arXiv:2206.00364, Algorithm 1): it
    ends in the mean of the image. The average with a velocity at time 1, where no noise can be seen, would leave
    half of the noise of that step.

    Parameters
    ----------
    velocity
        Takes x and its time.
    x
        [B, ...] at the first time.
    times
        Growing, or falling to go back.
    """
    for start, stop in pairwise(times):
        first = velocity(x, start)
        guess = x + (stop - start) * first
        x = guess if stop == 1 else x + (stop - start) * 0.5 * (first + velocity(guess, stop))
    return x
