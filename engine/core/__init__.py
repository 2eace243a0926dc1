"""The mechanism: ports, slots, rows, the forward pass, the docked adapters, memory."""
