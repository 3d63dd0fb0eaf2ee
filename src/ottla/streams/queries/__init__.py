"""Asking a running application for its state, in its process and over HTTP: committed rows only."""
