"""What operators do with a record: functions that make, for one task, what takes the records of a node."""
