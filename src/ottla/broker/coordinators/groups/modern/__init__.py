"""What groups with assignments by the coordinator share (consumer and share groups): values and pure functions."""
