"""The memberships of this process's channels in groups, on core."""
