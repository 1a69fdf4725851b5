"""The studio: a page on which people search, watch, judge and choose. It shows run folders and starts runs."""
