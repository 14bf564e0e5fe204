"""`python -m batch_lookups` is the command `batch-lookups`."""

from batch_lookups.cli.main import main

if __name__ == "__main__":
    main()
