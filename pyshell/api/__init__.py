"""The HTTP API: a Starlette application."""
