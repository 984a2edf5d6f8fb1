"""Getting published data: fetching, unpacking, recognising and checking it.

Modules, bottom to top:

unused_masks: masks without an image
check: every file of a domain opened and checked
archive_formats: the format of an archive, by its content
archive_members: the members of an archive of any format
extraction: members written below one folder, within limits
archives: unpacking completely or not at all
coco_annotations: the largest instance of each image of COCO
coco_selection: images selected from COCO, with mask files
contents: files compared with a card's manifest
prepare: from a folder or an archive to a card's location
fetch: downloads of files with direct addresses
"""
