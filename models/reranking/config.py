"""Settings of the methods of re-ranking; apart from them, whose libraries take seconds to import."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AstronomalyConfig:
    """Settings of the method; the defaults are Astronomaly's, with the 200 trees of its large runs."""

    alpha: float = 1.0
    """How far from a labelled row its label is believed; larger: less far."""
    num_trees: int = 200
    """Trees of the regression."""
    seed: int = 0
    """Of the regression."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.alpha <= 0 or self.num_trees < 1:
            raise ValueError(f"alpha {self.alpha} must be positive and num_trees {self.num_trees} at least 1")


@dataclass(frozen=True, kw_only=True)
class ProtegeConfig:
    """Settings of the method; the default is Protege's."""

    tradeoff: float = 0.5
    """Labels by which a row must be expected to beat the best one so far; larger: explores more."""
    seed: int = 0
    """Of the search for kernel parameters."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.tradeoff < 0:
            raise ValueError(f"tradeoff {self.tradeoff} must not be negative")
