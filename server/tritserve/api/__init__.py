"""The HTTP front: wire models, routes, SSE, errors."""
