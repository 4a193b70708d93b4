"""Redis Cluster: the map of the slots, and commands and topics that follow it."""
