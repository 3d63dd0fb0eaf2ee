"""What runs connectors: a worker's process, and one host process for each connector."""
