"""`python -m training`, and so `torchrun -m training`: the command line."""

from training.cli import main

main()
