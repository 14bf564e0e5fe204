"""Deployment of the database: migrations, drift, catalogue, generated SQL."""
