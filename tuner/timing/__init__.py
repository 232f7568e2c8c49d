"""Timing of warm calls, and what is computed from it."""
