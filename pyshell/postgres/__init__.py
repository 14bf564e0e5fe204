"""The only package that knows psycopg: connections, calls by name, notifications, arrays."""
