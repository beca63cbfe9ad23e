use std::io::{self, ErrorKind, Write};

/// Writes a text for people to standard output. A reader that ended early, as `head` does, is success.
///
/// # Errors
/// The text could not be written, as on a full disk.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
