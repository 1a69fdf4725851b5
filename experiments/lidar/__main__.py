"""`python -m experiments.lidar`: see run.py."""

from experiments.lidar.run import main

main()
