"""Groups of the classic protocol (JoinGroup, SyncGroup): the members agree among themselves."""
