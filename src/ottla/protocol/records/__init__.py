"""Record batches: the format on the wire and on disk alike. Batches stay bytes; kernels do the work per record."""
