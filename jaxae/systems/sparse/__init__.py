"""Sparse dictionaries as systems."""
