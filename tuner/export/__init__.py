"""A chosen configuration in the words of other programs: plain Python, diffusers, cache-dit, and servers."""
