"""The worker: claims lookups, does them over HTTP, and records what came of them."""
