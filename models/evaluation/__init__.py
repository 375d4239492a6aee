"""How far a set of generated images is from the real one: distances between distributions of what is measured."""
