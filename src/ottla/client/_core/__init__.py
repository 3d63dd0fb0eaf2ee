"""What clients decide, without I/O: no loop, socket, thread, clock or dice. Time and a seeded `Random` are passed in."""
