"""Sockets: frames in, frames out, in order. This package has never heard of a topic."""
