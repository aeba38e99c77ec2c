"""Heads the core brings; each reads one stream."""
