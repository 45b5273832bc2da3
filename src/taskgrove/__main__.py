"""`python -m taskgrove`, for torchrun."""

from taskgrove.cli import main

main()
