"""Batches of a cube as plain NumPy arrays; knows no framework."""
