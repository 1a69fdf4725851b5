"""Jobs that wait in a queue, and the processes that do them: for the studio and for `fairlead serve`."""
