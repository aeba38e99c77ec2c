"""Encoders the core brings: the transformer, the identity, and what the controls put in their place."""
