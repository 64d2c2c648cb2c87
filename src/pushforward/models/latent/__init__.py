"""Models with a latent code: autoencoders and what builds on them."""
