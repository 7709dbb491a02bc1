//! The metrics of the process, by the names that all Prometheus clients use:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>
//!
//! They are available on Linux only; on other systems they stay 0.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Figure;

#[derive(Default)]
pub(super) struct ProcessMetrics {
    cpu: Counter<f64, std::sync::atomic::AtomicU64>,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    started_at: Figure,
}

impl ProcessMetrics {
    /// Registers the metrics without the prefix of the daemon's own metrics.
    pub(super) fn register(&self, registry: &mut Registry) {
        let process = registry;
        process.register(
            "process_cpu_seconds",
            "User and system CPU time spent",
            self.cpu.clone(),
        );
        process.register(
            "process_resident_memory_bytes",
            "Resident memory",
            self.resident.clone(),
        );
        process.register(
            "process_virtual_memory_bytes",
            "Virtual memory",
            self.virtual_memory.clone(),
        );
        process.register(
            "process_open_fds",
            "Open file descriptors",
            self.open_fds.clone(),
        );
        process.register(
            "process_max_fds",
            "Limit of open file descriptors",
            self.max_fds.clone(),
        );
        process.register("process_threads", "Threads", self.threads.clone());
        process.register(
            "process_start_time_seconds",
            "Start time of the process, in seconds of Unix time",
            self.started_at.clone(),
        );
    }

    /// Reads the state of the process. A value that cannot be read keeps its old state.
    #[cfg(target_os = "linux")]
    pub(super) fn read(&self) {
        use procfs::process::{LimitValue, Process};

        let Ok(process) = Process::myself() else {
            return;
        };
        #[expect(clippy::cast_precision_loss, reason = "ticks of one process are few")]
        if let Ok(stat) = process.stat() {
            let per_second = procfs::ticks_per_second() as f64;
            let spent = (stat.utime + stat.stime) as f64 / per_second;
            self.cpu.inc_by((spent - self.cpu.get()).max(0.0));
            self.resident
                .set(bytes(stat.rss.saturating_mul(procfs::page_size())));
            self.virtual_memory.set(bytes(stat.vsize));
            self.threads.set(stat.num_threads);
            if let Ok(boot) = procfs::boot_time_secs() {
                self.started_at
                    .set(boot as f64 + stat.starttime as f64 / per_second);
            }
        }
        if let Ok(count) = process.fd_count() {
            self.open_fds.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(max) = limits.max_open_files.soft_limit
        {
            self.max_fds.set(bytes(max));
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn read(&self) {}
}

#[cfg(target_os = "linux")]
fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
