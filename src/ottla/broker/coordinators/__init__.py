"""Coordinators: state kept in an internal topic, one state machine per partition, driven by `runtime`."""
