"""A tuned configuration as a folder that a container serves."""
