"""`python -m experiments.noise_search`: see run.py."""

from experiments.noise_search.run import main

main()
