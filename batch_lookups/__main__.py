"""The command `batch-lookups`, which `python -m batch_lookups` is, too."""

import signal


def main() -> None:
    # The imports take a moment; Ctrl-C would show which of them it interrupted.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from batch_lookups.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
