"""What transactions need besides their coordinator: the gate before appends, the markers, producer ids."""
