"""Batches of a cube as plain NumPy arrays; knows no framework."""

from strfcube.loading.view import CubeView as CubeView

__all__ = ["CubeView"]
