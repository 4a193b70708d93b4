"""Consumers that are handed messages without being woken."""
