"""Handlers that use PostgreSQL, which is restarted; has an environment of its own in tox.ini."""
