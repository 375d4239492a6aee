"""Faults made on purpose: damaged files, storage that fails, processes and nodes that die."""
