//! The properties of actix that the actors rely on. If a new version differs, a test fails, and
//! `src/actor/mod.rs` may become simpler.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::{
    Actor, Arbiter, AsyncContext, Context, Handler, MailboxError, Message, ResponseActFuture,
    Supervised, Supervisor, WrapFuture,
};
use rollcalld::actor::AskError;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::{eventually, mailbox};

/// Counts the messages it handles, each after a permit.
struct Slow {
    gate: Arc<Notify>,
    handled: Arc<AtomicUsize>,
}

impl Actor for Slow {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(1);
        let gate = Arc::clone(&self.gate);
        // The mailbox stands still until the gate opens.
        context.wait(async move { gate.notified().await }.into_actor(self));
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Count;

impl Handler<Count> for Slow {
    type Result = ();

    fn handle(&mut self, _: Count, _: &mut Context<Self>) {
        self.handled.fetch_add(1, Ordering::SeqCst);
    }
}

fn slow() -> (actix::Addr<Slow>, Arc<Notify>, Arc<AtomicUsize>) {
    let (gate, handled) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let actor = Slow {
        gate: Arc::clone(&gate),
        handled: Arc::clone(&handled),
    };
    (actor.start(), gate, handled)
}

#[actix::test]
async fn a_mailbox_takes_more_than_its_capacity() {
    let (address, gate, handled) = slow();
    let questions: Vec<_> = (0..1000)
        .map(|_| actix::spawn(address.send(Count)))
        .collect();
    tokio::task::yield_now().await;
    gate.notify_one();
    for question in questions {
        question.await.unwrap().unwrap();
    }
    // All thousand were queued in a mailbox of capacity 1.
    assert_eq!(handled.load(Ordering::SeqCst), 1000);
}

#[actix::test]
async fn a_caller_that_gives_up_while_queued_is_skipped() {
    let (address, gate, handled) = slow();
    timeout(Duration::from_millis(20), address.send(Count))
        .await
        .unwrap_err();
    gate.notify_one();
    address.send(Count).await.unwrap();
    assert_eq!(handled.load(Ordering::SeqCst), 1);
}

/// Starts its work at once and finishes it when its gate opens.
struct Worker(Arc<AtomicUsize>, Arc<Notify>);

impl Actor for Worker {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct RequestClass;

impl Handler<RequestClass> for Worker {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: RequestClass, _: &mut Context<Self>) -> Self::Result {
        let (done, gate) = (Arc::clone(&self.0), Arc::clone(&self.1));
        let work = async move {
            gate.notified().await;
            done.fetch_add(1, Ordering::SeqCst);
        };
        Box::pin(work.into_actor(self))
    }
}

#[actix::test]
async fn what_a_caller_gave_up_on_is_done_all_the_same_once_it_began() {
    let done = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Notify::new());
    let address = Worker(Arc::clone(&done), Arc::clone(&gate)).start();
    timeout(Duration::from_millis(5), address.send(RequestClass))
        .await
        .unwrap_err();
    gate.notify_one();
    eventually(Duration::from_secs(10), "the work is done", || async {
        (done.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
}

/// Panics on request.
struct Fragile(Arc<AtomicUsize>);

impl Actor for Fragile {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Supervised for Fragile {}

#[derive(Message)]
#[rtype(result = "()")]
struct Panic;

impl Handler<Panic> for Fragile {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("as this test wants it");
    }
}

#[actix::test]
async fn a_supervisor_does_not_survive_a_panic() {
    let starts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&starts);
    let arbiter = Arbiter::new();
    let address = Supervisor::start_in_arbiter(&arbiter.handle(), |_| Fragile(counter));
    assert!(matches!(
        address.send(Panic).await,
        Err(MailboxError::Closed)
    ));
    eventually(Duration::from_secs(10), "its mailbox is closed", || async {
        (!address.connected()).then_some(())
    })
    .await;
    assert_eq!(starts.load(Ordering::SeqCst), 1, "it was not started again");
    arbiter.stop();
}

/// Counts the ticks of an interval.
struct Ticker(Arc<AtomicUsize>);

impl Actor for Ticker {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(Duration::from_millis(100), |actor, _| {
            actor.0.fetch_add(1, Ordering::SeqCst);
        });
    }
}

#[actix::test]
async fn an_interval_catches_up_in_a_burst_after_a_stall() {
    tokio::time::pause();
    let ticks = Arc::new(AtomicUsize::new(0));
    let _address = Ticker(Arc::clone(&ticks)).start();
    eventually(Duration::from_secs(10), "it ticks", || async {
        (ticks.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    let before = ticks.load(Ordering::SeqCst);
    // The whole thread stands still, as in a SIGSTOP.
    tokio::time::advance(Duration::from_millis(3050)).await;
    let begin = tokio::time::Instant::now();
    eventually(Duration::from_secs(10), "it caught up", || async {
        (ticks.load(Ordering::SeqCst) >= before + 30).then_some(())
    })
    .await;
    assert!(begin.elapsed() < Duration::from_millis(100), "all at once");
}

/// Answers only messages that its gate lets through, admitted by [`Mailbox`].
struct Gated(Arc<Notify>);

impl Actor for Gated {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let gate = Arc::clone(&self.0);
        context.wait(async move { gate.notified().await }.into_actor(self));
    }
}

impl Handler<rollcalld::actor::Admitted<Count>> for Gated {
    type Result = ();

    fn handle(&mut self, _: rollcalld::actor::Admitted<Count>, _: &mut Context<Self>) {}
}

#[actix::test]
async fn a_full_mailbox_rejects_messages() {
    let gate = Arc::new(Notify::new());
    let mailbox = mailbox(
        Gated(Arc::clone(&gate)).start(),
        10,
        Duration::from_secs(10),
    );
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let mailbox = mailbox.clone();
            actix::spawn(async move { mailbox.ask(Count).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(mailbox.ask(Count).await, Err(AskError::Overloaded));
    gate.notify_one();
    for answer in waiting {
        assert_eq!(answer.await.unwrap(), Ok(()));
    }
    assert_eq!(mailbox.ask(Count).await, Ok(()), "there are places again");
}

#[actix::test]
async fn a_mailbox_gives_up_at_its_deadline_and_keeps_the_permit_until_the_message_left() {
    let gate = Arc::new(Notify::new());
    let mailbox = mailbox(
        Gated(Arc::clone(&gate)).start(),
        1,
        Duration::from_millis(20),
    );
    assert_eq!(mailbox.ask(Count).await, Err(AskError::TimedOut));
    // The stalled actor's mailbox still holds the message, and does not grow.
    assert_eq!(mailbox.ask(Count).await, Err(AskError::Overloaded));
    gate.notify_one();
    eventually(Duration::from_secs(10), "the place is free", || async {
        (mailbox.ask(Count).await == Ok(())).then_some(())
    })
    .await;
}
