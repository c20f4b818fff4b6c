"""Place and connect: run configuration, command line, main loop, actors, metrics."""
