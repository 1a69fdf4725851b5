"""`python -m experiments.demon`: see run.py."""

from experiments.demon.run import main

main()
