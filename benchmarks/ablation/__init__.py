"""Reductions of spectra compared at equal latent size, on the same training spectra and the same injected anomalies.

`python -m benchmarks.ablation`; what came out and what it means: docs/ablation.md.
"""
