use std::time::{Duration, Instant};

use crate::Error;

/// Asks `probe` every 10 ms until it answers `Ok`, for at most `limit`.
///
/// # Errors
/// [`Error::Timeout`] with what the probe said last.
pub fn eventually<T>(limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> Result<T, Error> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(what) if start.elapsed() >= limit => {
                return Err(Error::Timeout { what, seconds: limit.as_secs_f32() });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
