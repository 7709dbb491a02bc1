//! One suite for each port, which every backend passes whole.

mod coordination;
mod event_log;
mod lease_store;
mod registry_store;

/// Stamps out a suite over backends: each test once for each, so that no backend can
/// have fewer.
macro_rules! suite {
    (backends: $($backend:ident => $open:expr),+ ; tests: $tests:tt) => {
        $(suite!(@one $backend, $open, $tests);)+
    };
    (@one $backend:ident, $open:expr, { $($test:ident),* $(,)? }) => {
        mod $backend {
            $(#[tokio::test]
            async fn $test() {
                super::$test($open.await).await;
            })*
        }
    };
}
use suite;
