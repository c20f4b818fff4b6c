"""Reviews: the queue of people, their labels, how far they agree."""
