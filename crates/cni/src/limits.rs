/// The longest configuration that is read, in bytes. A longer one is refused with code 5, and nothing is done; those
/// of runtimes have some kilobytes.
pub const MAX_STDIN: u64 = 10 << 20;
