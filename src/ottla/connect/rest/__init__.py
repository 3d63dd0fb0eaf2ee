"""Connect's REST interface: Java's routes, JSON and codes over a worker."""
