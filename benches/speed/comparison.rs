//! The comparison of contestants, and the table that prints it.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use crate::load::{self, Round};
use crate::servers::{Server, processor_time};

const ROUNDS: usize = 5;
pub(crate) const ROUND: Duration = Duration::from_secs(3);

/// A server that is measured.
pub(crate) struct Contestant<'a> {
    pub(crate) name: &'a str,
    /// The processes whose processor time counts: the server, and the backends it uses.
    pub(crate) processes: Vec<u32>,
    pub(crate) round: Box<dyn Fn() -> LocalBoxFuture<'a, Round> + 'a>,
}

/// Measures all contestants in turn, in several rounds, and prints a line for each. The ratio
/// compares the first with each of the others, round by round. A request does `things`
/// operations at once.
pub(crate) async fn compare(case: &str, things: usize, contestants: Vec<Contestant<'_>>) {
    let things = things as f64;
    let mut rounds: Vec<Vec<(Round, Vec<f64>)>> = contestants.iter().map(|_| Vec::new()).collect();
    // The first round warms up.
    for number in 0..=ROUNDS {
        for (contestant, rounds) in contestants.iter().zip(&mut rounds) {
            let spent = || contestant.processes.iter().map(|&id| processor_time(id));
            let before: Vec<Duration> = spent().collect();
            let round = (contestant.round)().await;
            let all = round.requests as f64 * things;
            let costs = spent().zip(before);
            let costs = costs.map(|(after, before)| (after - before).as_secs_f64() * 1e6 / all);
            let costs = costs.collect();
            if number > 0 {
                rounds.push((round, costs));
            }
        }
    }
    println!("\n{case}");
    for (index, (contestant, own)) in contestants.iter().zip(&rounds).enumerate() {
        let rate = median(own.iter().map(|(round, _)| round.per_second * things));
        let p50 = median(own.iter().map(|(round, _)| round.p50.as_secs_f64() * 1e3));
        let p99 = median(own.iter().map(|(round, _)| round.p99.as_secs_f64() * 1e3));
        let costs = (0..contestant.processes.len())
            .map(|process| median(own.iter().map(|(_, costs)| costs[process])))
            .map(|cost| format!("{cost:.1}"));
        let costs: Vec<String> = costs.collect();
        let mut ratios: Vec<f64> = rounds[0]
            .iter()
            .zip(own)
            .map(|((first, _), (round, _))| first.per_second / round.per_second)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let ratio = match (index, ratios.first(), ratios.last()) {
            (1.., Some(least), Some(most)) => {
                let middle = median(ratios.iter().copied());
                format!("  ratio {middle:.2} ({least:.2} to {most:.2})")
            }
            _ => String::new(),
        };
        println!(
            "  {:<22} {rate:>9.0}/s  p50 {p50:>7.2} ms  p99 {p99:>7.2} ms  CPU {:>13} us{ratio}",
            contestant.name,
            costs.join(" + ")
        );
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A server that receives requests over this many connections.
pub(crate) fn over_http<'a>(
    name: &'a str,
    server: &Server,
    connections: usize,
    status: u16,
    request: impl Fn(usize, usize) -> Vec<u8> + Clone + 'static,
) -> Contestant<'a> {
    let address = server.address;
    Contestant {
        name,
        processes: vec![server.id()],
        round: Box::new(move || {
            let request = request.clone();
            async move { load::run(&[address], connections, ROUND, status, request).await }
                .boxed_local()
        }),
    }
}

impl Contestant<'_> {
    /// Adds a process that works for the server.
    pub(crate) fn with(mut self, process: u32) -> Self {
        self.processes.push(process);
        self
    }
}
