"""Domains of images and masks: streams, cards, pairing, decoding, splits and prompts."""
