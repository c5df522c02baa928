"""Datasets: text in three splits that never overlap."""
