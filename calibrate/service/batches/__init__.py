"""Batches: files of requests in OpenAI Batch's shape, answered in the background."""
