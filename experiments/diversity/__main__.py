"""`python -m experiments.diversity`: see run.py."""

from experiments.diversity.run import main

main()
