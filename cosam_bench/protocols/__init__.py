"""Named, frozen experiments as TOML files."""
