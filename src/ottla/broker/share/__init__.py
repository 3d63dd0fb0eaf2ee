"""Share groups: share partitions, share sessions, and what keeps their state."""
