"""Linear reductions that know the noise of each pixel: weighted principal components, and positive ones.

Short on purpose: what they are compared with is in `models`.
"""

# N spectra, L pixels, D components

from dataclasses import dataclass

import torch
from torch import Tensor

SCATTER = 0.01
"""Variance added to that of the noise in weights, (10 % of the continuum)^2: else a few bright spectra decide all."""
RIDGE = 1e-6


def pixel_weights(ivar: Tensor) -> Tensor:
    """1 / (1/ivar + SCATTER), 0 where ivar is 0; [N, L]."""
    return ivar / (1 + SCATTER * ivar)


def coefficients(flux: Tensor, weights: Tensor, components: Tensor) -> Tensor:
    """Weighted least squares: coefficients [N, D] of components [D, L] for spectra [N, L]."""
    num = len(components)
    pairs = (components[:, None] * components[None]).reshape(num * num, -1)
    normal = (weights @ pairs.T).reshape(-1, num, num)
    scale = normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    normal = normal + RIDGE * scale[:, None, None] * torch.eye(num)
    return torch.linalg.solve(normal, ((weights * flux) @ components.T)[..., None])[..., 0]


@dataclass(frozen=True)
class WeightedPCA:
    """Mean [L] and orthonormal components [D, L] that minimise the weighted squared residual."""

    mean: Tensor
    components: Tensor

    def encode(self, flux: Tensor, ivar: Tensor) -> Tensor:
        """Coefficients [N, D]."""
        return coefficients(flux - self.mean, pixel_weights(ivar), self.components)

    def decode(self, coefficient: Tensor) -> Tensor:
        """Spectra [N, L]."""
        return self.mean + coefficient @ self.components


def fit_weighted_pca(
    flux: Tensor, ivar: Tensor, num_components: int, iterations: int, seed: int
) -> WeightedPCA:
    """Fit by the expectation maximisation of Bailey (2012), PASP 124, 1015, Section 5, all components at once.

    Coefficients given components are weighted least squares of each spectrum, components given coefficients weighted
    least squares of each pixel. Pixels are solved together, spectra in batches.
    """
    weights = pixel_weights(ivar)
    mean = (weights * flux).sum(0) / weights.sum(0).clamp_min(1e-12)
    centred = flux - mean
    generator = torch.Generator().manual_seed(seed)
    components = torch.linalg.qr(torch.randn(flux.shape[1], num_components, generator=generator))[0].T
    for _ in range(iterations):
        coefficient = coefficients(centred, weights, components.contiguous())
        components = coefficients(centred.T, weights.T, coefficient.T.contiguous()).T
        components = torch.linalg.qr(components.T)[0].T
    return WeightedPCA(mean, components.contiguous())


@dataclass(frozen=True)
class WeightedNMF:
    """Positive templates [D, L] of which spectra are positive combinations."""

    templates: Tensor
    iterations: int

    def encode(self, flux: Tensor, ivar: Tensor) -> Tensor:
        """Coefficients [N, D], by multiplicative updates."""
        weights = pixel_weights(ivar)
        data = flux.clamp_min(0)
        coefficient = torch.full((len(flux), len(self.templates)), 1.0 / len(self.templates))
        for _ in range(self.iterations):
            coefficient = _updated_coefficients(data, weights, coefficient, self.templates)
        return coefficient

    def decode(self, coefficient: Tensor) -> Tensor:
        """Spectra [N, L]."""
        return coefficient @ self.templates


def fit_weighted_nmf(
    flux: Tensor, ivar: Tensor, num_components: int, iterations: int, seed: int
) -> WeightedNMF:
    """Multiplicative updates with weights: Blanton & Roweis (2007), AJ 133, 734, Eqs. 2-3.

    Negative flux counts as 0. Templates have a mean of 1.
    """
    weights, data = pixel_weights(ivar), flux.clamp_min(0)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(len(flux), (num_components,), generator=generator)
    templates = data[start] + 0.1
    coefficient = torch.full((len(flux), num_components), 1.0 / num_components)
    for _ in range(iterations):
        coefficient = _updated_coefficients(data, weights, coefficient, templates)
        above = coefficient.T @ (weights * data)
        below = coefficient.T @ (weights * (coefficient @ templates))
        templates = templates * above / below.clamp_min(1e-12)
        size = templates.mean(1, keepdim=True).clamp_min(1e-12)
        templates, coefficient = templates / size, coefficient * size.T
    return WeightedNMF(templates, iterations)


def _updated_coefficients(data: Tensor, weights: Tensor, coefficient: Tensor, templates: Tensor) -> Tensor:
    above = (weights * data) @ templates.T
    below = (weights * (coefficient @ templates)) @ templates.T
    return coefficient * above / below.clamp_min(1e-12)
