"""A library for plugin authors: heads, windowing, batched linear layers."""
