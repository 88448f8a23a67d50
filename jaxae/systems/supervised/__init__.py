"""Networks trained on labels: features for metrics, probes."""
