"""Connections to servers: commands, blocking pops, Pub/Sub."""
