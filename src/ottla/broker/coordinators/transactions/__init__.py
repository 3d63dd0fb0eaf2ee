"""Transactions: state machines without I/O."""
