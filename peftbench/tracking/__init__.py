"""Readers of runs while they go on: Weights & Biases, or nothing."""
