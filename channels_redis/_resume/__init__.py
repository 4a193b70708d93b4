"""Clients that come back: what they name, how they join again, and what they are told."""
