//! What the kernel counts.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// Microseconds of CPU of this process.
pub(crate) fn spent_us() -> f64 {
    micros(ClockId::ProcessCPUTime)
}

/// Microseconds of CPU of this thread.
pub(crate) fn thread_us() -> f64 {
    micros(ClockId::ThreadCPUTime)
}

fn micros(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    let whole = f64::from(u32::try_from(time.tv_sec).expect("not that long"));
    whole * 1e6 + f64::from(u32::try_from(time.tv_nsec).expect("below a second")) / 1e3
}

/// Microseconds of CPU of another process, user and system, in steps of 10 ms.
pub(crate) fn total(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15.
    let fields = text.rsplit_once(')').expect("a name").1;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |n: usize| -> f64 { fields[n - 3].parse().expect("a number") };
    (ticks(14) + ticks(15)) * 1e4
}

/// Resident memory of another process.
pub(crate) fn rss_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|text| text.parse().ok()).expect("VmRSS")
}
