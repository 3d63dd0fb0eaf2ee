from __future__ import annotations

from ottla.config import BROKER, TOPIC, broker_key
from ottla.config.client_keys import CLIENT_KEYS, RELATED


def test_no_setting_of_clients_is_one_of_brokers_or_topics() -> None:
    assert [name for name in CLIENT_KEYS if broker_key(name) is not None or name in TOPIC] == []


def test_related_settings_exist() -> None:
    assert set(RELATED) <= set(CLIENT_KEYS)
    assert [name for names in RELATED.values() for name in names if name not in BROKER] == []
