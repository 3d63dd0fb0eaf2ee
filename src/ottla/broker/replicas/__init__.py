"""The partitions this broker holds: append, read, wait."""
