"""Where jobs run: the executor interface and its implementations."""
