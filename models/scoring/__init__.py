"""What a model says about an object, turned into scores that can be compared."""
