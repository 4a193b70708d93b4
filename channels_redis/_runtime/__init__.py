"""Event loops, threads, forks and tasks."""
