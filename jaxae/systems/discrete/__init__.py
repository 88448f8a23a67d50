"""Systems with a discrete bottleneck."""
