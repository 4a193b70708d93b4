"""Processes that die, freeze and return, and what others see of their members."""
