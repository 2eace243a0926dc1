"""Published adapters: index, sources, store, publishing, trust."""
