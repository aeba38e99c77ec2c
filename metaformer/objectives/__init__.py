"""Objectives the core brings."""
