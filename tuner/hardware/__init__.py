"""The machine: its fingerprint, and what NVML shows of its GPU."""
