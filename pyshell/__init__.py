"""The Python shell of Batch Lookups: it speaks HTTP for the database, which owns every rule."""
