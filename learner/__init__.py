"""Improve the policy: advantages, batches, losses, the DeepSpeed engine, checkpoints."""
