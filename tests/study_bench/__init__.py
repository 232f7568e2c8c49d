"""The parts of tests/bench_study.py."""
