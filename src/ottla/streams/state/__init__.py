"""State of stream tasks: tables of bytes on disk or in memory, and the uncommitted writes above them."""
