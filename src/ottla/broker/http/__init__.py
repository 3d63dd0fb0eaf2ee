"""What a browser and Prometheus get: pages, metrics, and the facts both are made of."""
