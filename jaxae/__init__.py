"""jaxae: autoencoders in JAX. Import what you need: `from jaxae.losses import elbo`; nothing loads here."""

__version__ = "0.1.0"
