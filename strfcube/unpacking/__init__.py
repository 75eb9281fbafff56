"""From an archive to a folder: whole or not at all, and no member leaves it."""
