"""What a person meets: the command line, the report, the result in a notebook. Reads the record of a run."""
