"""Help for testing: private servers on free ports, and what else a test of a channel layer needs.

Nothing in here is imported by the layers themselves.
"""
