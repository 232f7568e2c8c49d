"""Whether a configuration still is what its study measured: clean, as fast, as good."""
