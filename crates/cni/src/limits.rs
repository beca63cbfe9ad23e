/// The longest configuration that is read, in bytes. A longer one is an error (code 5), and nothing is
/// done; a runtime's own are some kilobytes.
pub const MAX_STDIN: u64 = 10 << 20;
