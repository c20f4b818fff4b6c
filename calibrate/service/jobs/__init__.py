"""Jobs of the service: fits and watchers, in processes of their own."""
