"""Autoregressive models of data themselves: no latent, exact likelihoods."""
