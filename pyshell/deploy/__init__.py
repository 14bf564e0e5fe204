"""What brings a database up to date: migrations, drift, catalogue, generated SQL."""
