//! The start of a daemon with a million instances, and of a million instances.

use tokio::time::{Instant, sleep};

use crate::Options;
use crate::comparison::median;
use crate::fleet::{INSTANCES, INTERVAL, Registry, SERVICES, Store, batches, offline};
use crate::load::Round;
use crate::servers::processor_time;

/// The number of starts of each build that count.
const STARTS: usize = 3;

/// Measures the start of each build, in turn.
pub(crate) async fn start(options: &Options) {
    for store in [Store::Postgres, Store::Sqlite] {
        println!("\nstart with {INSTANCES} instances in {SERVICES} services, {store:?}");
        let mut registries = Vec::new();
        for (name, program) in options.builds() {
            let registry = Registry::with(program, store, INSTANCES, SERVICES).await;
            registries.push((name, registry, Vec::new()));
        }
        // The first round warms up.
        for round in 0..=STARTS {
            for (_, registry, starts) in &mut registries {
                let begin = Instant::now();
                let daemon = registry.start().await;
                let took = begin.elapsed().as_secs_f64();
                if round > 0 {
                    let spent = processor_time(daemon.id()).as_secs_f64();
                    starts.push((took, spent, registry.above_idle(&daemon)));
                }
            }
        }
        for (name, _, starts) in registries {
            let of = |part: fn(&(f64, f64, f64)) -> f64| median(starts.iter().map(part));
            let times = starts.iter().map(|(took, ..)| format!("{took:.1}"));
            println!(
                "  {name:<22} ready after {:.1} s ({}), {:.1} s of processor time, {:.0} bytes an instance above idle",
                of(|start| start.0),
                times.collect::<Vec<_>>().join(", "),
                of(|start| start.1),
                of(|start| start.2),
            );
        }
    }
}

/// Measures, for each build, how a fleet is recorded that begins at once.
pub(crate) async fn begin_at_once(options: &Options) {
    let batches = batches(INSTANCES, SERVICES);
    println!(
        "\n{INSTANCES} instances in {SERVICES} services whose leases begin within {INTERVAL:?}"
    );
    for (name, program) in options.builds() {
        let registry = Registry::with(program, Store::Postgres, INSTANCES, SERVICES).await;
        let daemon = registry.start().await;
        let beats = registry.begin_at_once(name, &daemon, &batches).await;
        let recorded = offline(&daemon).await;
        sleep(2 * INTERVAL).await;
        beats.latencies.take();
        sleep(INTERVAL).await;
        let usual = Round::of(beats.latencies.take(), INTERVAL);
        println!(
            "  {name:<22} usual p99 {:.2} ms a batch; {} went offline after the record",
            usual.p99.as_secs_f64() * 1e3,
            offline(&daemon).await - recorded,
        );
    }
}
