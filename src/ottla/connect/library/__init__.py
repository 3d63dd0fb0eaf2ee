"""Connectors that come with ottla."""
