"""Images as arrays: calibration, grids, cutouts, detection. No Ray, no torch, no files."""
