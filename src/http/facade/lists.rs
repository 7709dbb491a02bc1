//! Bodies of lists over all services.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

/// A body, and the version of the Directory that it has at least.
type Slot = Arc<AsyncMutex<Option<(u64, Bytes)>>>;

/// The bodies of lists, made once for all requests that wait for the same one.
///
/// A request is answered with a body that was begun after it arrived, or with the present one. So
/// while the registry changes all the time, and all clients ask, one body at a time is made.
pub(super) struct ListCache<K>(Mutex<HashMap<K, Slot>>);

impl<K> Default for ListCache<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> ListCache<K> {
    /// Returns a body. `version` returns that of the Directory.
    pub(super) async fn get<F: Future<Output = Bytes>>(
        &self,
        list: K,
        version: impl Fn() -> u64,
        make: impl FnOnce() -> F,
    ) -> Bytes {
        let slot = Arc::clone(self.0.lock().entry(list).or_default());
        let wanted = version();
        let mut slot = slot.lock().await;
        if let Some((made, body)) = &*slot
            && *made >= wanted
        {
            return body.clone();
        }
        let now = version();
        let body = make().await;
        *slot = Some((now, body.clone()));
        body
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[actix_web::test]
    async fn a_body_is_made_once_for_a_version_and_for_all_who_wait_for_it() {
        let (lists, version, made) = (ListCache::default(), Cell::new(1), Cell::new(0));
        let get = || {
            let make = || async {
                tokio::task::yield_now().await;
                made.set(made.get() + 1);
                Bytes::from(made.get().to_string())
            };
            lists.get("all", || version.get(), make)
        };
        assert_eq!(get().await, "1");
        assert_eq!(get().await, "1");
        version.set(2);
        let (one, other) = tokio::join!(get(), get());
        assert_eq!((one, other), (Bytes::from("2"), Bytes::from("2")));
    }
}
