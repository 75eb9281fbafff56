"""From a catalog entry to verified raw files."""
