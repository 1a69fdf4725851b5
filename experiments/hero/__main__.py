"""`python -m experiments.hero`: see run.py."""

from experiments.hero.run import main

main()
