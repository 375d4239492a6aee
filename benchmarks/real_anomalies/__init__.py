"""Do the ranks of models that learned from synthetic spectra hold for real ones? `python -m benchmarks.real_anomalies`."""
