"""Which channels of this process are in which groups, on core."""
