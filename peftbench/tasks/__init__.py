"""Tasks: text to batches, loss, figures and predictions."""
