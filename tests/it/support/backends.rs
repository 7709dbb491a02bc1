//! The two sets of backends, and how a test runs over both.

use std::ops::Deref;

use super::daemon::Daemon;
use super::postgres;
use super::redis::Redis;

/// The backends of a daemon, which live as long as the value.
pub(crate) trait Backends: Sized {
    async fn new() -> Self;

    /// The flags that choose them.
    fn arguments(&self) -> Vec<String>;

    /// Whether several daemons can use them.
    const SHARED: bool;

    /// The same with more flags.
    fn arguments_with(&self, more: &[&str]) -> Vec<String> {
        let mut all = self.arguments();
        all.extend(more.iter().map(|&argument| argument.to_owned()));
        all
    }
}

/// SQLite and memory.
pub(crate) struct Embedded;

impl Backends for Embedded {
    const SHARED: bool = false;

    async fn new() -> Self {
        Self
    }

    fn arguments(&self) -> Vec<String> {
        Vec::new()
    }
}

/// PostgreSQL and Redis.
pub(crate) struct Shared {
    pub redis: Redis,
    pub store: String,
}

impl Backends for Shared {
    const SHARED: bool = true;

    async fn new() -> Self {
        Self {
            redis: Redis::start().await,
            store: postgres::shared().await.create_database().await,
        }
    }

    fn arguments(&self) -> Vec<String> {
        vec![
            "--store".into(),
            self.store.clone(),
            "--leases".into(),
            self.redis.url(),
        ]
    }
}

/// A daemon on a set of backends.
pub(crate) struct Setup<B> {
    pub daemon: Daemon,
    pub backends: B,
}

impl<B: Backends> Setup<B> {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more flags.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let backends = B::new().await;
        Self {
            daemon: Daemon::start(&backends.arguments_with(arguments)).await,
            backends,
        }
    }

    /// Another daemon on the same backends, where that is possible.
    pub(crate) async fn replica(&self, arguments: &[&str]) -> Option<Daemon> {
        if B::SHARED {
            Some(Daemon::start(&self.backends.arguments_with(arguments)).await)
        } else {
            None
        }
    }
}

/// Most tests use the daemon.
impl<B> Deref for Setup<B> {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

/// Runs each named test, a function generic over [`Backends`], on both sets.
macro_rules! on_both_backends {
    ($($test:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<crate::support::backends::Embedded>().await;
            })*
        }
        mod shared {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<crate::support::backends::Shared>().await;
            })*
        }
    };
}
pub(crate) use on_both_backends;
