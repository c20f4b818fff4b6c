"""The commands, one module each: what it takes (``add``) and what it calls. Heavy imports come
after parsing."""
