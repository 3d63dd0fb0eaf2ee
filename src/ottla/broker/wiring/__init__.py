"""The parts of a broker, put together: coordinators, handlers, and what a broker takes from the machine it runs on."""
