"""`python -m experiments.drafts`: see run.py."""

from experiments.drafts.run import main

main()
