"""The training loop and the hooks that take part in it."""
