//! Three times the capacity: what is accepted, how late, and at which cost.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::load::{self, Connection, Round, micros};
use crate::requests::{INSTANCES, fill, made_once, registration, send_heartbeats};
use crate::servers::{Server, memory};
use crate::support::redis::Redis;

/// The factor for load and connections.
const TIMES: usize = 3;

const DURATION: Duration = Duration::from_secs(10);

pub(crate) async fn run() {
    let (redis, own) = (Redis::start().await, TempDir::new().unwrap());
    let leases = ["--leases".to_owned(), redis.url()];
    let daemon = Server::daemon(own.path(), &leases).await;
    fill(daemon.address, INSTANCES).await;
    // More batches than that at once are rejected in any case.
    overload("batches of 500 heartbeats", &daemon, 64, 200, made_once()).await;
    overload("heartbeats", &daemon, 256, 200, send_heartbeats).await;
    overload("registrations on SQLite", &daemon, 256, 201, registration()).await;
}

/// `connections` is the number that just reaches the capacity.
async fn overload(
    what: &str,
    daemon: &Server,
    connections: usize,
    status: u16,
    request: impl Fn(usize, usize) -> Vec<u8> + Clone + 'static,
) {
    let normal = async |duration| {
        let request = request.clone();
        load::run(&[daemon.address], connections, duration, status, request).await
    };
    // The first round warms up.
    normal(DURATION / 2).await;
    let normal = normal(DURATION).await;
    let before = memory(daemon.id());

    let answers: Rc<RefCell<Answers>> = Rc::default();
    let (size, rate) = (connections * TIMES, normal.per_second * TIMES as f64);
    let pace = Duration::from_secs(1).div_f64(rate);
    let begin = Instant::now();
    let mut crowd = JoinSet::new();
    for connection in 0..size {
        let (answers, request, address) = (Rc::clone(&answers), request.clone(), daemon.address);
        crowd.spawn_local(async move {
            let mut open = Connection::open(address).await.unwrap();
            for n in (connection..).step_by(size) {
                let due = begin + pace * n as u32;
                sleep_until(due).await;
                if begin.elapsed() >= DURATION {
                    return;
                }
                let sent = Instant::now();
                let asked = open.ask(&request(connection, n)).await;
                let mut is_over = false;
                match asked {
                    Ok(503) => {
                        let text = open.text().to_ascii_lowercase();
                        assert!(text.contains("\r\nretry-after: "), "{text}");
                        answers.borrow_mut().shed.push(micros(sent.elapsed()));
                        is_over = open.is_closing();
                    }
                    Ok(answered) => {
                        assert_eq!(answered, status, "{}", open.text());
                        answers.borrow_mut().accepted.push(micros(sent.elapsed()));
                    }
                    Err(_) => {
                        answers.borrow_mut().cut += 1;
                        is_over = true;
                    }
                }
                if is_over {
                    open = Connection::open(address).await.unwrap();
                }
            }
        });
    }
    let mut most = before;
    while begin.elapsed() < DURATION {
        sleep(Duration::from_millis(100)).await;
        most = most.max(memory(daemon.id()));
    }
    while crowd.join_next().await.is_some() {}
    let Answers {
        accepted,
        shed,
        cut,
    } = answers.take();
    let took = begin.elapsed();
    let (accepted, shed) = (Round::of(accepted, took), Round::of(shed, took));
    println!("\noverload: {TIMES} times the {what} that it can take, on {size} connections");
    let line = |name: &str, round: &Round| {
        println!(
            "  {name:<22} {:>9.0}/s  p50 {:>7.2} ms  p99 {:>7.2} ms",
            round.per_second,
            round.p50.as_secs_f64() * 1e3,
            round.p99.as_secs_f64() * 1e3
        );
    };
    line(&format!("on {connections} connections"), &normal);
    line("accepted", &accepted);
    line("shed, 503", &shed);
    println!(
        "  {cut} cut; memory {:.0} MiB, at most {:.0} MiB under overload; p99 of the accepted {:.1} of normal",
        before as f64 / f64::from(1 << 20),
        most as f64 / f64::from(1 << 20),
        accepted.p99.as_secs_f64() / normal.p99.as_secs_f64()
    );
}

/// The result, in microseconds.
#[derive(Default)]
struct Answers {
    accepted: Vec<u32>,
    shed: Vec<u32>,
    /// Connections that were closed without an answer.
    cut: usize,
}
