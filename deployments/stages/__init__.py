"""Ray Serve shims around the classes of `pipelines.stages`."""
