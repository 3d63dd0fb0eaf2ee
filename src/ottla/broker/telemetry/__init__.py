"""Metrics that clients push (KIP-714): what each client is asked for, when it may push, and what becomes of its metrics.

`instances` decides about requests, `otlp` reads payloads, `series` keeps what /metrics shows. None of them knows a clock, a
socket or a thread; `ottla.broker.handlers.telemetry` is the shell around them.
"""
