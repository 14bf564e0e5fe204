"""Uploads of many sites: bodies in JSON, NDJSON or CSV, plain or compressed, become the JSON array that the database takes."""
