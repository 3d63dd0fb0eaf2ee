"""The broker: handlers answer requests, coordinators keep groups, replicas own partitions."""
