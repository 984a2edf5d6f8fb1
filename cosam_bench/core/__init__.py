"""What every room uses: errors, settings, files, seeds, prefetching, downloads, and facts about the machine."""
