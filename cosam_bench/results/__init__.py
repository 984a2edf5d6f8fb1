"""Records of runs, and what is derived from them."""
