//! The doors over real sockets, with a stand-in shard.
