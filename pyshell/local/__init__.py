"""What only a laptop needs: a private PostgreSQL, the whole stack in the foreground, the demo."""
