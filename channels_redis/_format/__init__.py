"""The format of names and messages in Redis."""
