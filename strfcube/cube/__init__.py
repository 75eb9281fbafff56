"""The store: its contract, how its shards are written and read, opening, digest, verifying."""
