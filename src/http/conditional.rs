//! Conditional requests: a client that sends the `ETag` of what it has gets 304 while nothing has
//! changed, and may let the daemon hold the request until something has.

use std::collections::HashMap;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, EntityTag, Header, IfNoneMatch};
use actix_web::{HttpRequest, HttpResponse};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use super::{Api, Problem, compression, context};
use crate::admission::{Permit, RequestClass};
use crate::directory::{Body, Coding};

/// The proxies of the field cut a request after 50 or 60 seconds, unless they are configured.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(45);

/// A duration such as `30s`, at most [`MAX_WAIT`].
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Wait(Duration);

impl TryFrom<String> for Wait {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match humantime::parse_duration(&text) {
            Ok(wait) => Ok(Self(wait.min(MAX_WAIT))),
            Err(_) => Err("wait must be a duration such as 30s".to_owned()),
        }
    }
}

/// The query parameter of a list that may be waited for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// The time to wait for a change, if the client has the current list: a duration such as
    /// `30s`, at most 45 s.
    #[serde(default)]
    #[param(value_type = Option<String>, example = "30s")]
    pub(super) wait: Wait,
}

/// A request with the list that its client has, and the time that it may wait for another one.
pub(super) struct Conditional {
    known: IfNoneMatch,
    /// The end of the wait.
    pub(super) deadline: Instant,
    coding: Option<Coding>,
    _permit: Option<Permit>,
}

impl Conditional {
    /// Reads the header. A request that waits exchanges its permit for one of a long poll.
    pub(super) fn new(request: &HttpRequest, api: &Api, wait: Wait) -> Result<Self, Problem> {
        let permit = if wait.0.is_zero() {
            None
        } else {
            api.spare_connection()?;
            let permit = api.acquire(RequestClass::Wait)?;
            context::release_permit(request);
            context::note_wait(request);
            Some(permit)
        };
        Ok(Self {
            // A header that does not parse matches no list.
            known: IfNoneMatch::parse(request).unwrap_or(IfNoneMatch::Items(Vec::new())),
            deadline: Instant::now() + wait.0,
            coding: compression::accepted(request),
            _permit: permit,
        })
    }

    /// Adds a tag to those of the header.
    pub(super) fn also_known(mut self, etag: &str) -> Self {
        if let IfNoneMatch::Items(known) = &mut self.known {
            known.push(EntityTag::new_strong(etag.to_owned()));
        }
        self
    }

    /// Returns a body, unless the client has it: RFC 9110, section 13.1.2.
    pub(super) fn unless_known(&self, body: Body) -> Option<Body> {
        let etag = EntityTag::new_strong(body.etag().to_owned());
        let is_known = match &self.known {
            IfNoneMatch::Any => true,
            IfNoneMatch::Items(tags) => tags.iter().any(|tag| tag.weak_eq(&etag)),
        };
        (!is_known).then_some(body)
    }

    /// Answers with the body that `changed` finds until the deadline, or with 304. The stop of the
    /// daemon ends the wait.
    pub(super) async fn answer(
        &self,
        api: &Api,
        changed: impl Future<Output = Option<Body>>,
    ) -> HttpResponse {
        let changed = tokio::select! {
            biased;
            changed = changed => changed,
            () = api.lifecycle.stopping() => None,
        };
        let no_cache = (CACHE_CONTROL, "no-cache");
        let Some(body) = changed else {
            return HttpResponse::NotModified().insert_header(no_cache).finish();
        };
        let mut answer = HttpResponse::Ok();
        answer
            .insert_header(no_cache)
            .content_type("application/json");
        compression::respond(answer, &body, self.coding).await
    }
}

/// The most bodies that are kept.
const KEPT: usize = 32;

/// The bodies of lists over all scopes, of the present version of the Directory: requests for
/// the same list share one.
#[derive(Default)]
pub(crate) struct BodyCache(Mutex<(u64, HashMap<String, Body>)>);

impl BodyCache {
    /// Returns the body of a list, which `make` serialises once for a version.
    pub(super) fn get(&self, version: u64, list: &str, make: impl FnOnce() -> Vec<u8>) -> Body {
        {
            let mut kept = self.0.lock();
            if kept.0 != version {
                *kept = (version, HashMap::new());
            }
            if let Some(body) = kept.1.get(list) {
                return body.clone();
            }
        }
        let body = Body::new(make());
        let mut kept = self.0.lock();
        if kept.0 == version && kept.1.len() < KEPT {
            kept.1.insert(list.to_owned(), body.clone());
        }
        body
    }
}
