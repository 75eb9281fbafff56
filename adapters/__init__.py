"""Thin readers of cubes for training frameworks."""
