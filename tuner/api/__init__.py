"""What `tune run` and `tune show` do, as functions for scripts and notebooks."""
