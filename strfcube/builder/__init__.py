"""From a pipeline's records to a store."""
