"""Waveforms, and what is computed from them."""
