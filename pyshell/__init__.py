"""The Python shell of Batch Lookups: serves over HTTP what the database, which owns every rule, decides."""
