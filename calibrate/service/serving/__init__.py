"""Serving: loaded classifiers, the queue in front of them, their restarts."""
