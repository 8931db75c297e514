"""The commands `herd` and `openherd`, and `python -m herd`."""

import signal


def main() -> None:
    former = signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C while modules load: nothing to say, nothing to save
    from herd.cli import main as run

    signal.signal(signal.SIGINT, former)
    run()


if __name__ == "__main__":
    main()
