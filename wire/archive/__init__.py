"""The archive of traces: a journal, Parquet files, and readers of both."""
