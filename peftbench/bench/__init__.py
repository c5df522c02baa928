"""Benchmarks of this code against its peers: ``python -m peftbench.bench``, pages and raw figures in docs/benchmarks."""
