"""Where the bytes of a store come from: local files, object stores, the web, and a cache of what is far away."""
