"""Checks and decodes the options and the entries of ``hosts``."""
