"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Timed asserts are not tests: a busy machine must not fail a property.
settings.register_profile("ottla", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ottla")
