"""The engine's process (see `worker`): `python -m herd.engine <file descriptor of a connected socket>`."""

import gc
import os


def main() -> None:
    # What imports make, PyTorch's 170,000 objects among it, stays: looking for garbage in it would cost a tenth of a
    # second now, and as much in the middle of replies later.
    gc.disable()
    # GNU's OpenMP lets threads spin for milliseconds behind each of PyTorch's parallel operations; the kernels and the
    # server need the cores. This is some 50 µs.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    from herd.engine.worker import main

    gc.freeze()
    gc.enable()
    main()


if __name__ == "__main__":
    main()
