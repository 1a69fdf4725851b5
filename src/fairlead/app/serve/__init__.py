"""`fairlead serve`: the images interface of OpenAI, scores and metrics over HTTP, for other programs."""
