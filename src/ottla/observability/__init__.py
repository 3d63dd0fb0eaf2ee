"""What the broker tells about itself: plain integer metrics, their Prometheus text, and logs."""
