//! The metrics of the process, by the names that all Prometheus clients use:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>
//!
//! They are available on Linux only. A value that cannot be read is omitted.

use std::fmt;

use super::state::{State, StateWriter};

pub(super) struct Process;

#[cfg(not(target_os = "linux"))]
impl State for Process {
    fn write(&self, _: &mut StateWriter<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
impl State for Process {
    fn write(&self, out: &mut StateWriter<'_>) -> fmt::Result {
        use procfs::process::{LimitValue, Process};

        let Ok(process) = Process::myself() else {
            return Ok(());
        };
        if let Ok(stat) = process.stat() {
            let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
            let cpu = seconds(stat.utime + stat.stime);
            let resident = stat.rss.saturating_mul(procfs::page_size());
            out.counter("process_cpu_seconds", "User and system CPU time spent", cpu)?;
            out.gauge("process_resident_memory_bytes", "Resident memory", resident)?;
            out.gauge("process_virtual_memory_bytes", "Virtual memory", stat.vsize)?;
            out.gauge("process_threads", "Threads", stat.num_threads)?;
            if let Ok(boot) = procfs::boot_time_secs() {
                out.gauge(
                    "process_start_time_seconds",
                    "Start time of the process, in seconds of Unix time",
                    boot as f64 + seconds(stat.starttime),
                )?;
            }
        }
        if let Ok(count) = process.fd_count() {
            out.gauge("process_open_fds", "Open file descriptors", count)?;
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(max) = limits.max_open_files.soft_limit
        {
            out.gauge("process_max_fds", "Limit of open file descriptors", max)?;
        }
        Ok(())
    }
}
