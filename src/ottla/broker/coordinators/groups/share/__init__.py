"""Share groups (KIP-932): members, epochs, assignments, and which share partitions have begun."""
