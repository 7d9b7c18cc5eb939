"""What `fastproc.subprocess` is made of. Private: use that module."""
