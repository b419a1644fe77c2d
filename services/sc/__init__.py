"""The storage controller: volumes of one zone, who may use them, and snapshots on their way. Its only writer."""
