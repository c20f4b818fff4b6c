"""Calls of vLLM: the engine's arguments, requests, groups of them, answers."""
