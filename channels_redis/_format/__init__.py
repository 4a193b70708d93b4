"""What names and messages look like in Redis."""
