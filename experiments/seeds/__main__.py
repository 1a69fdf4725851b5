"""`python -m experiments.seeds`: see run.py."""

from experiments.seeds.run import main

main()
