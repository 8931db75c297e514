"""`python -m herd`."""

from herd.cli import main

main()
