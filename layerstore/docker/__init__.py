"""The graphdriver plugin server: dockerd's requests on a unix socket, as verbs on a store."""
