"""Domains of images and masks: streams, cards, pairing, decoding, splits and prompts.

Modules, bottom to top:

foreground: which pixel values of a mask file are foreground
mask_content: the values that a mask file holds, with their numbers of pixels
lossy_masks: mask files whose compression may change levels
ignored: which pixel values are neither foreground nor background
image_groups: images that a split keeps together
cards: one domain, described by a TOML file
faults: one error for all faults of a domain
folder_names: the names in a folder that globs match, or seem to
file_patterns: the image and mask files that a card's patterns match
coco_files: the objects that COCO's annotation files list
unread_files: files that patterns match and nobody reads
locations: which folder holds a card's data on this machine
streams: domains, in the order of learning
orders: other orders of them, by name
availability: whether a card's data is on this machine
protocol_files: the TOML files of protocols
split_manifests: images listed by name, with the hashes of their files
pairing: image files and their mask files
image_counts: whether all of a domain's images are there
layouts: the published forms that a folder may have
overview: a stream's domains without opening a file
samples: images with masks, in splits and domains
subsets: some samples of a split
held_out: training images that are not trained on
prompt_settings: which prompts a protocol trains and tests with
prompts: boxes, points and masks drawn once and frozen
published_points: SAMCL's point prompts
instances: pixels of objects drawn as polygons or runs
yolo: YOLO's text files of segments
labelme: polygons of labelme files
split_lists: lists of images by name
splits: which images train and which test
decoding: image and mask files as tensors
mask_files: the mask of an image from one or several files
annotations: masks drawn from annotation files
opened_images: images that could be decoded
image_files: a domain that is read from files
near_copies: images that look the same though their bytes differ
leakage: images that one domain trains on and another tests on
synthetic: domains drawn by code
opening: streams and domains, ready to use
acquire: downloading, unpacking and checking published data
guessing: a stream from folders that nobody has described
"""
