"""Rules of the pool of rollout workers: health, membership, dispatch, restarts. Knows no Ray."""
