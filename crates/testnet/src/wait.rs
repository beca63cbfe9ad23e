use std::time::{Duration, Instant};

use crate::Error;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_millis(10);

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
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// Asks `probe` every 10 ms for all of `time`: what it denies must not happen. `time` is as long as the harm that is looked for
/// would take, and no longer.
///
/// # Errors
/// [`Error::Happened`] with what the probe said, as soon as it says so, and when.
pub fn stays(time: Duration, mut probe: impl FnMut() -> Result<(), String>) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        probe().map_err(|what| Error::Happened { what, seconds: start.elapsed().as_secs_f32() })?;
        if start.elapsed() >= time {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
    }
}
