"""Helpers for tests: private servers, pytest fixtures, layers that record or lose messages.

The layers do not import this package.
"""
