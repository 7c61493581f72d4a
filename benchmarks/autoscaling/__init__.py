"""What `benchmarks.autoscale` runs on: machines that come and go, denoisers that need them."""
