"""HTTP of the service: the application, and what every route shares."""
