"""The engine's process (see `worker`): `python -m herd.engine <file descriptor of a connected socket>`."""

import gc


def main() -> None:
    # What imports make, PyTorch's 170,000 objects among it, stays: looking for garbage in it would cost a tenth of a
    # second now, and as much in the middle of replies later.
    gc.disable()
    from herd.engine.worker import main

    gc.freeze()
    gc.enable()
    main()


if __name__ == "__main__":
    main()
