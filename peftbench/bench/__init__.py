"""Benchmarks of this code against its peers: ``python -m peftbench.bench`` writes pages and raw figures."""
