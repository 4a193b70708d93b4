"""Consumers that get messages without being woken."""
