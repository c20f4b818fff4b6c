"""What the model sees: decode, sampling, one processor call, cache, positions, views."""
