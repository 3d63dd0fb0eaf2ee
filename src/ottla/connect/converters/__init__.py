"""Converters: the bytes of keys, values and headers as data with a schema, and back, byte for byte as Java's."""
