//! What the kernel says of a running process.

use std::fs;
use std::time::Duration;

use crate::Result;

/// A process, by its ID.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

/// The clock of `/proc/<pid>/stat`, the same on every Linux that has a user space like ours (`USER_HZ`, time(7)).
const TICKS: u64 = 100;

impl Process {
    /// A field of `/proc/<pid>/status`, in KiB.
    pub(crate) fn kibibytes(self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
    }

    /// How often its threads slept and woke up again, by themselves or for others.
    pub(crate) fn switches(self) -> Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
            sum += counts.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(sum)
    }

    /// The time that processors spent on it, its ended threads included.
    pub(crate) fn processor_time(self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The name, in parentheses, may hold anything; fields 14 and 15 are utime and stime, the third comes first here.
        let rest = stat.rsplit_once(')').ok_or("no name")?.1;
        let ticks = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        Ok(Duration::from_millis(ticks.sum::<u64>() * 1000 / TICKS))
    }
}
