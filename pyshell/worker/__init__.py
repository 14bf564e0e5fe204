"""The worker: claims lookups, does them over HTTP, and records their outcomes."""
