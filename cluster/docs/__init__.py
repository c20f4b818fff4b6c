"""Pages of docs/ that code writes."""
