"""Guessing a stream from folders of images and masks: what ``cosam-bench data init`` writes.

Nothing is decided that the files leave open: what somebody must choose is written as alternatives.

Modules, bottom to top:

folder_listing: the files below a folder
folder_words: what the names of folders and files say
file_groups: folders of one kind, such as those of all cases
name_patterns: from the names of images and masks to patterns
candidates: cards that may fit a folder
annotation_files: COCO's, labelme's and YOLO's files
image_headers: sizes, orientations and depths of images
toml_text: values and comments of TOML
list_files: lists of training and test images
mask_choice: which pixels of masks are foreground
domain_guess: one domain
stream_guess: all domains of a folder, and the file
"""
