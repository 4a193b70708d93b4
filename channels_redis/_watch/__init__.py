"""Monitoring: events, outages and counters."""
