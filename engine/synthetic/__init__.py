"""Synthetic spectroscopic releases with known truth: physics in plain numpy, files in `desi`."""
