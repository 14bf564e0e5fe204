"""Uploads: turns bodies in JSON, NDJSON, CSV and workbooks, plain or compressed, into the JSON that the database takes."""
