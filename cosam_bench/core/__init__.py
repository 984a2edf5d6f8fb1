"""What every room uses: errors, settings, files, seeds, prefetching, downloads, and facts about the machine.

Modules, bottom to top:

errors: the error that is meant for the user
argument_checks: arguments of public functions, checked by the types in their signatures
deferred: packages without what they import at first
version: the version of this package
sums: sums of floats with the same bits everywhere
reading: files up to a stated size
search_ranges: in which ranges settings are tuned
settings: settings as frozen models, read from TOML and from key=value
defaults: settings without those at their defaults
setting_keys: the keys of a settings model as data
hashing: sha256 of bytes, text, JSON, files and tensors
files: atomic writes, locks and paths
tensor_files: safetensors files, read and written
torch_archives: archives of torch.save, read without running them
reusable: which shared files may be read
sealed_files: files of tensors with their identity and a checksum
seeds: one seed for the run, a generator for each use of it
prefetch: work done in threads before it is asked for
precision_choices: the types that a model may compute in
arithmetic: what decides how sums are rounded
devices: copying to the device, waiting for it, and its memory
environment: the machine and the software, as a record names them
terminal_text: text without control characters
safe_console: a console for such text alone
console: standard output and standard error
progress_bar: bars for downloads and checks
http_responses: what a server's answer says about a part of a file
resuming_downloader: one file over HTTP, resumed where it stopped
downloads: files and archives by URL, checked by hash
"""
