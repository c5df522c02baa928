"""Base models: from the hub, a folder or a package, or random."""
