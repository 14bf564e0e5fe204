"""The command `batch-lookups`. Nothing here imports httpx or rich before a command needs it."""
