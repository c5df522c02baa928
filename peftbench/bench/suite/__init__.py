"""The benchmarks, one file each, found by being in this folder.

Each file has ``ON_DEVICE`` (whether what it measures depends on the machine), ``run(options)``, which measures and
returns plain JSON types, and ``page(results)``, which makes Markdown of them and of nothing else.
"""
