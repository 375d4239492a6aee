"""Synthetic releases with known truth, in real file layouts. What there is: `kinds`."""
