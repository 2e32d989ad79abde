"""Many runs as one graph of jobs: planned once, done on a cluster, on one machine, or in this process."""
