"""`python -m experiments.embedding_search`: see run.py."""

from experiments.embedding_search.run import main

main()
