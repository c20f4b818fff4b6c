"""Training of the tokenizer that turns clips into semantic action tokens."""
