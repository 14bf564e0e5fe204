"""The only package that uses psycopg: connections, calls by name, notifications, binary arrays."""
