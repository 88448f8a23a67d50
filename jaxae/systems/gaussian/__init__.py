"""Systems with a Gaussian latent."""
