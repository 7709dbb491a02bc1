//! The life of a million instances that send heartbeats in batches, at the rate of real ones.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::fleet::{
    BATCH, Beats, INSTANCES, INTERVAL, Registry, SERVICES, Store, batches, offline, online,
};
use crate::load::Round;
use crate::requests::id_of;
use crate::servers::{Server, processor_time};
use crate::support::daemon::BINARY;

/// The default TTL.
const TTL: Duration = Duration::from_secs(30);

/// The duration of the steady state.
const MEASURED: Duration = Duration::from_secs(60);

/// The number of rounds that compare the cost of a heartbeat.
const ROUNDS: usize = 5;

/// The time after which each connection has been used once.
const OPENING: Duration = Duration::from_secs(2);

/// Measures a life of a million instances.
pub(crate) async fn run() {
    println!(
        "\n{INSTANCES} instances in {SERVICES} services, each sends a heartbeat every {INTERVAL:?} in batches of {BATCH}"
    );
    // With a hundredth of the instances, to compare the cost.
    let with = async |instances, services| {
        Registry::with(BINARY, Store::Postgres, instances, services).await
    };
    let few = with(INSTANCES / 100, SERVICES / 100).await;
    let few_daemon = few.start().await;
    let few_batches = batches(few.instances, SERVICES / 100);

    let many = with(INSTANCES, SERVICES).await;
    let daemon = many.start().await;
    let many_batches = batches(INSTANCES, SERVICES);
    let beats = many
        .begin_at_once("rollcalld", &daemon, &many_batches)
        .await;
    // By then everything that was loaded is recorded.
    sleep(INTERVAL).await;
    measure(&many, &daemon, &beats).await;
    // From now on each batch is sent at its own moment, and none is omitted in between.
    let turn = Beats::start(daemon.address, &many_batches);
    sleep(INTERVAL).await;
    drop((beats, turn));

    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        // Each instance sends one heartbeat, and the next one before its lease ends.
        let cost = cost_of_a_heartbeat(&daemon, &many_batches, INTERVAL).await;
        let few_cost = cost_of_a_heartbeat(&few_daemon, &few_batches, INTERVAL / 2).await;
        // The first round warms up.
        if round > 0 {
            ratios.push(cost / few_cost);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "  in turn at the same rate, a heartbeat costs {:.2} ({:.2} to {:.2}) of one of {} instances",
        ratios[ROUNDS / 2],
        ratios[0],
        ratios[ROUNDS - 1],
        few.instances
    );
    drop((few_daemon, few));

    let beats = Beats::start(daemon.address, &many_batches);
    sleep(INTERVAL).await;
    // The daemon is killed, and another one starts on the same port.
    let port = daemon.address.to_string();
    drop(daemon);
    let begin = Instant::now();
    let daemon = many.start_at(&port).await;
    println!(
        "  ready {:.1} s after a restart",
        begin.elapsed().as_secs_f64()
    );
    sleep(TTL + INTERVAL).await;
    println!(
        "  {} s later {} online, {} went offline, {:.0} bytes an instance above idle",
        (TTL + INTERVAL).as_secs(),
        online(&daemon).await,
        offline(&daemon).await,
        many.above_idle(&daemon)
    );

    let last = beats.silence(2);
    while online(&daemon).await > (INSTANCES - 2 * BATCH) as f64 {
        sleep(Duration::from_millis(20)).await;
    }
    let late = last.get().elapsed().saturating_sub(TTL);
    println!(
        "  a thousand that stopped were all found {:.2} s after the TTL of the last",
        late.as_secs_f64()
    );
    println!("  {} went offline", offline(&daemon).await);
}

/// Measures the steady state.
async fn measure(registry: &Registry<'_>, daemon: &Server, beats: &Beats) {
    let redis = id_of(&registry.redis).await;
    let spent = || [daemon.id(), redis].map(processor_time);
    let (before, gone) = (spent(), offline(daemon).await);
    beats.latencies.take();
    sleep(MEASURED).await;
    let (after, latencies) = (spent(), beats.latencies.take());
    let round = Round::of(latencies, MEASURED);
    let count = (round.requests * BATCH) as f64;
    let [cost, redis_cost] = [0, 1].map(|i| (after[i] - before[i]).as_secs_f64());
    println!(
        "  {:.0} heartbeats/s, p50 {:.2} ms, p99 {:.2} ms a batch; daemon {:.2} of a core, {:.2} us a heartbeat, \
         Redis {:.2} us; {:.0} bytes an instance above idle; {} online, {} went offline",
        round.per_second * BATCH as f64,
        round.p50.as_secs_f64() * 1e3,
        round.p99.as_secs_f64() * 1e3,
        cost / MEASURED.as_secs_f64(),
        cost * 1e6 / count,
        redis_cost * 1e6 / count,
        registry.above_idle(daemon),
        online(daemon).await,
        offline(daemon).await - gone,
    );
}

/// Returns the processor time of a heartbeat in microseconds, measured over `duration`.
async fn cost_of_a_heartbeat(daemon: &Server, batches: &Rc<[Vec<u8>]>, duration: Duration) -> f64 {
    let beats = Beats::start(daemon.address, batches);
    // By then all connections are open.
    sleep(OPENING).await;
    let before = processor_time(daemon.id());
    beats.latencies.take();
    sleep(duration - OPENING).await;
    let cost = processor_time(daemon.id()) - before;
    cost.as_secs_f64() * 1e6 / (beats.latencies.take().len() * BATCH) as f64
}
