"""Getting published data: fetching, unpacking, recognising and checking it.

Modules, bottom to top:

pairing_faults: what is wrong with a folder's pairs
check: every file of a domain opened and looked at
archive_members: what may be unpacked from an archive
archives: unpacking
coco: COCO's annotations as mask files
prepare: from a published archive or folder to a card's layout
fetch: downloads under the data's licence
"""
