/// Whether the program runs as root, who alone may read what the daemon and the plugins keep.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
