"""`python -m experiments.overhead`: see run.py."""

from experiments.overhead.run import main

main()
