//! The suite of the coordinator.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use rollcalld::coordination::{self, Coordinator};
use rollcalld::redis::RedisBackend;

use super::suite;
use crate::support::eventually;
use crate::support::redis::Redis;

pub(super) struct Fixture {
    coordinator: Arc<dyn Coordinator>,
    /// The server, kept alive.
    _servers: Box<dyn Any>,
}

async fn memory() -> Fixture {
    Fixture {
        coordinator: coordination::open(None),
        _servers: Box::new(()),
    }
}

async fn redis(program: &str) -> Fixture {
    let redis = Redis::start_program(program, |_| Vec::new()).await;
    let backend = RedisBackend::open(&redis.url().parse().unwrap()).unwrap();
    Fixture {
        coordinator: coordination::open(Some(&backend)),
        _servers: Box::new(redis),
    }
}

suite! {
    backends:
        in_memory => super::memory(),
        on_redis => super::redis("redis-server"),
        on_valkey => super::redis(&crate::valkey::program());
    tests: {
        a_claim_publishes_once_until_it_is_forgotten,
        of_many_claims_at_once_one_publishes,
        a_claim_is_one_daemons_until_it_is_forgotten,
    }
}

async fn a_claim_publishes_once_until_it_is_forgotten(fixture: Fixture) {
    let publish = async |message: &'static str, claim: &'static str| {
        let remember = Duration::from_millis(400);
        let coordinator = &fixture.coordinator;
        coordinator
            .publish_once("channel", message, claim, remember)
            .await
            .unwrap()
    };
    assert!(publish("a", "tick-1").await);
    assert!(!publish("b", "tick-1").await);
    assert!(publish("c", "tick-2").await);
    eventually(
        Duration::from_secs(10),
        "the claim is forgotten",
        || async { publish("d", "tick-1").await.then_some(()) },
    )
    .await;
}

async fn of_many_claims_at_once_one_publishes(fixture: Fixture) {
    let claims = (0..64).map(|_| {
        let coordinator = Arc::clone(&fixture.coordinator);
        tokio::spawn(async move {
            let remember = Duration::from_secs(60);
            coordinator
                .publish_once("channel", "message", "tick", remember)
                .await
                .unwrap()
        })
    });
    let mut published = 0;
    for claim in claims.collect::<Vec<_>>() {
        published += usize::from(claim.await.unwrap());
    }
    assert_eq!(published, 1);
}

async fn a_claim_is_one_daemons_until_it_is_forgotten(fixture: Fixture) {
    let remember = Duration::from_millis(400);
    assert!(
        fixture
            .coordinator
            .try_claim("chore", remember)
            .await
            .unwrap()
    );
    assert!(
        !fixture
            .coordinator
            .try_claim("chore", remember)
            .await
            .unwrap()
    );
    assert!(
        fixture
            .coordinator
            .try_claim("other", remember)
            .await
            .unwrap()
    );
    let publish = fixture
        .coordinator
        .publish_once("c", "m", "chore", remember)
        .await;
    assert!(!publish.unwrap(), "a claim is a claim");
    eventually(
        Duration::from_secs(10),
        "the claim is forgotten",
        || async {
            fixture
                .coordinator
                .try_claim("chore", remember)
                .await
                .unwrap()
                .then_some(())
        },
    )
    .await;
}
