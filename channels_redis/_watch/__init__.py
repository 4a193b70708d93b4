"""What operators see: events, outages and counts."""
