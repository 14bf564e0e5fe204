"""Webhooks: sent from the outbox in the database, by the worker or by request."""
