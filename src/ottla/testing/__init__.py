"""Test doubles for users of ottla: virtual time, a simulated disk, a whole broker in one process."""
