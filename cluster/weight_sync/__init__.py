"""New weights into every engine, proven by the parity probe."""
