"""Writers of synthetic raw files, one a data set: the layout and every quirk, with the truth beside it."""
