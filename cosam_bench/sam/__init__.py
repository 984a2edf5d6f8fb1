"""The Segment Anything Model: building, batched decoding, adapters."""
