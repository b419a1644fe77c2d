"""The storage controller: volumes and snapshots of one zone, its only writer. Not built yet.

Until it is, EC2 has no volumes to describe here, and the actions that would make one answer UnsupportedOperation.
"""
