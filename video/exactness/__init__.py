"""Exactness of decord: from a video's packets, whether it reads the very frames asked for."""
