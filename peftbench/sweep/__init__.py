"""The engine: points of a grid carried out one process each, nothing lost."""
