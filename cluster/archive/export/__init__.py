"""Exports of an archive: JSONL, a Hugging Face data set, transcripts for Inspect Scout, Lance."""
