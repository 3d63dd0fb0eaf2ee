"""The fixtures as users have them; here they are also found where ottla is installed without its entry points."""

from ottla.testing.pytest_plugin import kafka_broker, kafka_broker_settings

__all__ = ["kafka_broker", "kafka_broker_settings"]
