"""The share coordinator: what share groups have delivered, a state machine without I/O."""
