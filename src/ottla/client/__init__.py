"""The other end of the wire: producers and, later, consumers that work with ottla and with Apache Kafka."""
