"""Bytes to messages and record batches, and back: the language shared by everything above.

No I/O, no clock, no event loop. The only state is a half-read frame (`framing`).
Importing this package imports none of the messages: each API is a module of its own, loaded on first use.
"""
