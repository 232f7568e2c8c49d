"""The search space: the space file, what of it can be used here, and the candidates."""
