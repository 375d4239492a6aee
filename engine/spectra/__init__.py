"""The science of spectra on arrays: numpy and scipy, no files, no Ray, no torch."""
