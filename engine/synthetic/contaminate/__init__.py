"""Contaminants put on clean images, with the truth kept: what a denoiser is trained on."""
