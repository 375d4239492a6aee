"""Generators of galaxy images: four families that train, sample and encode behind one interface.

`vae`, `alae` and `stylegan` are the families that Holzschuh et al. (2022, MNRAS 515, 652, arXiv:2203.11956)
compare; `flow` is a modern one. `config`, `images`, `networks`, `average`, `task` and `sampling` are shared;
`adversarial` and `style_networks` by the two with a discriminator.
"""
