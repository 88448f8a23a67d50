"""Autoencoders whose codes are matched to a prior by optimal transport or another divergence of samples."""
