"""Traces: capture them in the worker, read them, judge them, and show them in TensorBoard."""
