"""The worker pool: routing, the journal of every stream, supervision of worker processes."""
