"""Systems on latents: priors fitted after the autoencoder."""
