"""The group coordinator: membership of classic groups and committed offsets, decided without I/O."""
