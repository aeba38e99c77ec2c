"""Arithmetic on raw values before they become tokens: series with gaps, rasters of any depth; shared by plugins."""
