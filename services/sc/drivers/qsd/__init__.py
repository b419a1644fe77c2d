"""Volumes as files, each served by a qemu-storage-daemon of its own.

layout   what stands on disk             daemon   one process, and the word with it
graph    QEMU's nodes, as it wants them  engine   one volume: its daemon, its door, its exports
points   frozen points and what changed  driver   all volumes of a controller
door     TLS for clients of other hosts  hydrate  a volume that its source comes into
"""
