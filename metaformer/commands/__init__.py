"""What the small commands do; the large ones live with their subject (`train`, `evaluate`, `predict`, ...)."""
