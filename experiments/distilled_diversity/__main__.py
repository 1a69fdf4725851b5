"""`python -m experiments.distilled_diversity`: see run.py."""

from experiments.distilled_diversity.run import main

main()
