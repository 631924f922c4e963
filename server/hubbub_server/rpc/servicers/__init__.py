"""One servicer a service: requests to use cases, values to answers, nothing else."""
