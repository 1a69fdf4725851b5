"""`python -m experiments.full_size`: see run.py."""

from experiments.full_size.run import main

main()
