"""Tools for a single machine: a private PostgreSQL, the whole system in the foreground, the demo."""
