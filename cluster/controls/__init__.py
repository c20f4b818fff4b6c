"""Control arms: measurements beside the stages."""
