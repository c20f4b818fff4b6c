"""Cache of entries on disk: clips, and a frozen tower's embeddings; bounded and shared."""
