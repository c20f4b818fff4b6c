"""Model input of videos: decoding, sampling, one processor call, cache, positions, views."""
