"""peftbench: which parameter-efficient fine-tuning method to use, and what it costs."""

__version__ = "0.1.0"
