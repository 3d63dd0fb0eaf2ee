"""Metrics that clients push (KIP-714): who is asked for what, what they may send when, and what becomes of it.

`instances` decides about requests, `otlp` reads payloads, `series` keeps what /metrics shows. None of them knows a clock, a
socket or a thread; `ottla.broker.handlers.telemetry` is the shell around them.
"""
