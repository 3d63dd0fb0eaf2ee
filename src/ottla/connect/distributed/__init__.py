"""Distributed workers: who runs what, and the topics in which they keep what they know."""
