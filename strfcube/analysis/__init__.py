"""What is computed from an open cube: ``ds.strf``."""
