"""Getting published data: fetching, unpacking, recognising and checking it."""
