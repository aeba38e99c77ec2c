"""Metrics the core brings, all computed by torchmetrics, which joins the ranks."""
