"""NBD as it is needed here: a client of storage daemons, and a server of snapshots, both on unix sockets."""
