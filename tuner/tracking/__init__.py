"""Trials in an experiment tracker of the user's: MLflow, Weights & Biases."""
