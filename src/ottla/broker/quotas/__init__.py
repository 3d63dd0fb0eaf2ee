"""Quotas of clients: how much a user or a client id may send, read, keep busy and change, as Apache Kafka's."""
