"""What is made sparse in the factors of a low-rank adapter, how and when."""
