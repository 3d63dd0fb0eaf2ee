"""Request handlers: one module per family, thin: call one level down, shape the answer."""
