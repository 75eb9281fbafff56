"""From a data set's name to verified raw files."""
