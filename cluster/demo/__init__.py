"""The embedded demo: a task made of clips, its renderer, and a tiny vision-language model."""
