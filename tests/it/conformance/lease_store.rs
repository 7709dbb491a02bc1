//! The suite of the lease store.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rollcalld::clock::SystemClock;
use rollcalld::lease::{self, Identity, LeaseStore, LeaseUrl, ListCursor, Renewal};
use rollcalld::model::{InstanceKey, ScopeKind, Ttl, Weight};

use super::suite;
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::redis_cluster::RedisCluster;

pub(super) struct Fixture {
    leases: Arc<dyn LeaseStore>,
    /// The servers, kept alive.
    _servers: Box<dyn Any>,
}

async fn memory() -> Fixture {
    Fixture {
        leases: open("memory:"),
        _servers: Box::new(()),
    }
}

async fn redis(program: &str) -> Fixture {
    let redis = Redis::start_program(program, |_| Vec::new()).await;
    Fixture {
        leases: open(&redis.url()),
        _servers: Box::new(redis),
    }
}

async fn cluster() -> Fixture {
    let cluster = RedisCluster::start_with(0).await;
    Fixture {
        leases: open(&cluster.url()),
        _servers: Box::new(cluster),
    }
}

fn open(url: &str) -> Arc<dyn LeaseStore> {
    let url: LeaseUrl = url.parse().unwrap();
    lease::open(&url, Arc::new(SystemClock)).unwrap().connect()
}

suite! {
    backends:
        in_memory => super::memory(),
        on_redis => super::redis("redis-server"),
        on_valkey => super::redis(&crate::valkey::program()),
        on_a_cluster => super::cluster();
    tests: {
        a_first_renewal_creates_and_a_second_renews_the_same_life,
        answers_come_in_the_order_of_the_questions,
        nothing_is_asked_for_nothing,
        a_group_and_a_service_of_one_name_have_different_leases,
        a_lease_named_twice_in_a_batch_is_created_once,
        of_many_renewals_at_once_one_creates,
        a_renewal_begins_the_time_to_live_anew,
        a_lease_without_renewals_expires,
        a_life_after_expiry_has_a_later_epoch,
        a_life_after_revocation_is_a_new_one_however_soon,
        revoking_what_is_not_there_is_harmless,
        the_list_has_every_live_lease_and_only_those,
        a_lease_that_is_hidden_or_shown_is_the_same_one,
        ten_thousand_leases_are_renewed_in_one_call,
        it_is_the_same_for_as_long_as_it_has_its_leases,
    }
}

fn key(kind: ScopeKind, scope: &str, address: &str) -> InstanceKey {
    InstanceKey {
        scope: kind.with(scope.parse().unwrap()),
        address: address.parse().unwrap(),
    }
}

fn orders(host: u32) -> InstanceKey {
    key(ScopeKind::Service, "orders", &format!("host-{host}:8080"))
}

fn renewal(key: &InstanceKey, seconds: i64) -> Renewal {
    Renewal {
        key: key.clone(),
        weight: Weight::default(),
        ttl: Ttl::try_from(seconds).unwrap(),
        is_hidden: false,
    }
}

impl Fixture {
    async fn renew_one(&self, key: &InstanceKey, seconds: i64) -> lease::Renewed {
        let renewed = self.leases.renew(&[renewal(key, seconds)]).await.unwrap();
        assert_eq!(renewed.len(), 1);
        renewed[0]
    }

    async fn left(&self, key: &InstanceKey) -> Option<Duration> {
        let look = self
            .leases
            .inspect(std::slice::from_ref(key))
            .await
            .unwrap();
        look.leases[0].map(|lease| lease.left)
    }

    async fn expired(&self, key: &InstanceKey) {
        eventually(Duration::from_secs(15), "the lease expires", || async {
            self.left(key).await.is_none().then_some(())
        })
        .await;
    }
}

async fn a_first_renewal_creates_and_a_second_renews_the_same_life(fixture: Fixture) {
    let first = fixture.renew_one(&orders(1), 30).await;
    let second = fixture.renew_one(&orders(1), 30).await;
    assert!(first.created);
    assert!(!second.created);
    assert_eq!(first.epoch, second.epoch);
    let lease = fixture.leases.inspect(&[orders(1)]).await.unwrap().leases[0];
    assert_eq!(lease.unwrap().epoch, first.epoch);
}

async fn a_lease_that_is_hidden_or_shown_is_the_same_one(fixture: Fixture) {
    let hidden = |is_hidden| Renewal {
        is_hidden,
        ..renewal(&orders(7), 30)
    };
    let renew = async |is_hidden| {
        let renewed = fixture.leases.renew(&[hidden(is_hidden)]).await.unwrap();
        (renewed[0].created, renewed[0].epoch)
    };
    let (created, epoch) = renew(false).await;
    assert!(created);
    // By a renewal, in both directions, and by itself.
    for is_hidden in [true, true, false] {
        assert_eq!(renew(is_hidden).await, (false, epoch));
        assert!(fixture.left(&orders(7)).await.is_some());
    }
    for is_hidden in [true, true, false, true] {
        let key = orders(7);
        fixture.leases.set_hidden(&key, is_hidden).await.unwrap();
        let look = fixture.leases.inspect(&[key]).await.unwrap();
        assert_eq!(look.leases[0].unwrap().epoch, epoch);
        assert!(look.leases[0].unwrap().left > Duration::from_secs(20));
    }
    let mut listed = HashSet::new();
    let mut cursor = Some(ListCursor::default());
    while let Some(next) = cursor {
        let page = fixture.leases.list(next).await.unwrap();
        listed.extend(page.keys);
        cursor = page.next;
    }
    assert_eq!(listed, HashSet::from([orders(7)]));
    fixture.leases.revoke(&[orders(7)]).await.unwrap();
    assert_eq!(fixture.left(&orders(7)).await, None);
    // A lease that is not there is neither hidden nor shown.
    assert!(!fixture.leases.set_hidden(&orders(7), false).await.unwrap());
    let (created, _) = renew(true).await;
    assert!(created);
}

async fn answers_come_in_the_order_of_the_questions(fixture: Fixture) {
    fixture.renew_one(&orders(2), 30).await;
    fixture.renew_one(&orders(4), 600).await;
    let questions = [orders(1), orders(2), orders(3), orders(4)];
    let leases = fixture.leases.inspect(&questions).await.unwrap().leases;
    let left: Vec<_> = leases
        .iter()
        .map(|lease| lease.map(|lease| lease.left))
        .collect();
    assert_eq!(left[0], None);
    assert!(left[1].unwrap() <= Duration::from_secs(30));
    assert_eq!(left[2], None);
    assert!(left[3].unwrap() > Duration::from_secs(30));
    let renewals = questions.each_ref().map(|key| renewal(key, 30));
    let created: Vec<bool> = fixture
        .leases
        .renew(&renewals)
        .await
        .unwrap()
        .iter()
        .map(|renewed| renewed.created)
        .collect();
    assert_eq!(created, [true, false, true, false]);
}

async fn nothing_is_asked_for_nothing(fixture: Fixture) {
    assert_eq!(fixture.leases.renew(&[]).await.unwrap(), []);
    assert_eq!(fixture.leases.inspect(&[]).await.unwrap().leases, []);
    fixture.leases.revoke(&[]).await.unwrap();
}

async fn a_group_and_a_service_of_one_name_have_different_leases(fixture: Fixture) {
    let group = key(ScopeKind::Group, "edge", "a:1");
    let service = key(ScopeKind::Service, "edge", "a:1");
    assert!(fixture.renew_one(&group, 30).await.created);
    assert_eq!(fixture.left(&service).await, None);
    assert!(fixture.renew_one(&service, 30).await.created);
}

async fn a_lease_named_twice_in_a_batch_is_created_once(fixture: Fixture) {
    let batch = [renewal(&orders(1), 30), renewal(&orders(1), 30)];
    let renewed = fixture.leases.renew(&batch).await.unwrap();
    assert!(renewed[0].created);
    assert!(!renewed[1].created);
    assert_eq!(renewed[0].epoch, renewed[1].epoch);
}

async fn of_many_renewals_at_once_one_creates(fixture: Fixture) {
    let renewals: Vec<_> = (0..64)
        .map(|_| {
            let leases = Arc::clone(&fixture.leases);
            tokio::spawn(async move { leases.renew(&[renewal(&orders(1), 30)]).await.unwrap()[0] })
        })
        .collect();
    let mut created = 0;
    let mut epochs = HashSet::new();
    for renewal in renewals {
        let renewed = renewal.await.unwrap();
        created += usize::from(renewed.created);
        epochs.insert(renewed.epoch);
    }
    assert_eq!((created, epochs.len()), (1, 1));
}

async fn a_renewal_begins_the_time_to_live_anew(fixture: Fixture) {
    fixture.renew_one(&orders(1), 5).await;
    eventually(Duration::from_secs(10), "time passes", || async {
        (fixture.left(&orders(1)).await? < Duration::from_millis(4500)).then_some(())
    })
    .await;
    fixture.renew_one(&orders(1), 600).await;
    let left = fixture.left(&orders(1)).await.unwrap();
    assert!(
        left > Duration::from_secs(500) && left <= Duration::from_secs(600),
        "{left:?}"
    );
}

async fn a_lease_without_renewals_expires(fixture: Fixture) {
    fixture.renew_one(&orders(1), 5).await;
    fixture.renew_one(&orders(2), 600).await;
    fixture.expired(&orders(1)).await;
    assert!(fixture.left(&orders(2)).await.is_some());
}

async fn a_life_after_expiry_has_a_later_epoch(fixture: Fixture) {
    let first = fixture.renew_one(&orders(1), 5).await;
    fixture.expired(&orders(1)).await;
    let second = fixture.renew_one(&orders(1), 5).await;
    assert!(second.created);
    assert!(second.epoch > first.epoch);
}

async fn a_life_after_revocation_is_a_new_one_however_soon(fixture: Fixture) {
    for _ in 0..50 {
        fixture.renew_one(&orders(1), 30).await;
        fixture
            .leases
            .revoke(&[orders(1), orders(2)])
            .await
            .unwrap();
        assert_eq!(fixture.left(&orders(1)).await, None);
        let next = fixture.renew_one(&orders(1), 30).await;
        assert!(next.created);
    }
}

async fn revoking_what_is_not_there_is_harmless(fixture: Fixture) {
    fixture.renew_one(&orders(2), 30).await;
    fixture
        .leases
        .revoke(&[orders(1), orders(1)])
        .await
        .unwrap();
    assert!(fixture.left(&orders(2)).await.is_some());
}

async fn the_list_has_every_live_lease_and_only_those(fixture: Fixture) {
    let expected: HashSet<InstanceKey> = (0..2500).map(orders).collect();
    let renewals: Vec<Renewal> = expected.iter().map(|key| renewal(key, 600)).collect();
    fixture.leases.renew(&renewals).await.unwrap();
    fixture.renew_one(&orders(9001), 30).await;
    fixture.leases.revoke(&[orders(9001)]).await.unwrap();
    fixture.renew_one(&orders(9002), 5).await;
    fixture.expired(&orders(9002)).await;
    let mut listed = HashSet::new();
    let mut cursor = ListCursor::default();
    loop {
        let page = fixture.leases.list(cursor).await.unwrap();
        listed.extend(page.keys);
        match page.next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(listed, expected);
}

async fn ten_thousand_leases_are_renewed_in_one_call(fixture: Fixture) {
    let renewals: Vec<Renewal> = (0..10_000).map(|i| renewal(&orders(i), 600)).collect();
    let first = fixture.leases.renew(&renewals).await.unwrap();
    assert!(first.len() == 10_000 && first.iter().all(|renewed| renewed.created));
    let second = fixture.leases.renew(&renewals).await.unwrap();
    assert!(second.len() == 10_000 && second.iter().all(|renewed| !renewed.created));
}

async fn it_is_the_same_for_as_long_as_it_has_its_leases(fixture: Fixture) {
    let incarnation = async || fixture.leases.probe().await.unwrap();
    let first = incarnation().await;
    fixture.renew_one(&orders(1), 30).await;
    assert_eq!(incarnation().await, first);
    fixture.leases.revoke(&[orders(1)]).await.unwrap();
    assert_eq!(incarnation().await, first);
    let look = fixture.leases.inspect(&[orders(1)]).await.unwrap();
    assert_eq!(look.leases, [None]);
    assert_ne!(look.identity, Identity::default());
    // A store on several servers asks only those that may have the lease.
    assert!(first.contains(&look.identity));
}
