"""Domains of images and masks: streams, cards, pairing, decoding, splits and prompts.

Modules, bottom to top:

prompt_settings: which prompts a protocol trains and tests with
samples: images with masks, in splits and domains
prompts: boxes, points and masks drawn once and frozen
foreground: which pixel values of a mask file are foreground
cards: one domain, described by a TOML file
locations: which folder holds a card's data on this machine
streams: the order of domains
labelme: polygons of labelme files
pairing: image files and their mask files
splits: which images train and which test
decoding: image and mask files as tensors
image_files: a domain that is read from files
leakage: images that occur in training and in a test
layouts: the published forms that a folder may have
overview: a stream's domains without opening a file
published_points: SAMCL's point prompts
synthetic: domains drawn by code
opening: streams and domains, ready to use
acquire: downloading, unpacking and checking published data
"""
