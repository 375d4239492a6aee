"""New ranks of a catalogue from a few labels of people: plain numpy and numba, no files."""
