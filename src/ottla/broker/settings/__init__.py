"""What the configuration of a broker is made of: listeners, and rules that one key alone cannot break."""
