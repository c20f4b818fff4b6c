"""Routes of the service, a module a noun."""
