"""Transforms and predicates: what changes records between a connector and its topics, one by one."""
