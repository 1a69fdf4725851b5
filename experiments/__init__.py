"""Measurements that the documents cite, each with one way to run it: see README.md."""
