//! Extractors for bodies, paths and queries. Invalid input ends here, with a problem that names
//! the field.

use std::borrow::Cow;
use std::fmt;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::pin::pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use actix_web::{FromRequest, HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::time::timeout;

use super::Code;
use super::problem::{InField, Problem};
use super::{Api, context};
use crate::admission::{Permit, RequestClass};
use crate::directory::{Directory, HeartbeatInfo, KeyParts};
use crate::model::{InstanceKey, Scope, ScopeKind};

/// The time limit for receiving a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The size up to which a body does not count against the memory that large bodies share, in
/// bytes.
const SMALL_BODY: usize = 16 * 1024;

/// The largest body of most requests, in bytes.
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// A JSON body of at most `LIMIT` bytes. An empty body stands for `{}`.
pub(super) struct Json<T, const LIMIT: usize = BODY_LIMIT>(pub(super) T);

impl<T: DeserializeOwned + 'static, const LIMIT: usize> FromRequest for Json<T, LIMIT> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let text = json_text(request, payload, LIMIT);
        Box::pin(async { parse(&text.await?).map(Self) })
    }
}

/// The text of a JSON body of at most `LIMIT` bytes, for types that borrow from it.
pub(super) struct JsonText<const LIMIT: usize>(Bytes);

impl<const LIMIT: usize> JsonText<LIMIT> {
    pub(super) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Problem> {
        parse(&self.0)
    }
}

impl<const LIMIT: usize> FromRequest for JsonText<LIMIT> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let text = json_text(request, payload, LIMIT);
        Box::pin(async { text.await.map(Self) })
    }
}

fn json_text(
    request: &HttpRequest,
    payload: &mut Payload,
    limit: usize,
) -> impl Future<Output = Result<Bytes, Problem>> + use<> {
    let media = check_media(request);
    let payload = web::Payload::from_request(request, payload);
    let request = request.clone();
    async move {
        let payload = payload.await.map_err(broken)?;
        let body = read(&request, payload, limit).await;
        let body = body.map_err(Problem::closing)?;
        if body.is_empty() {
            return Ok(Bytes::from_static(b"{}"));
        }
        media.map(|()| body)
    }
}

/// Checks by the headers that the body is JSON in UTF-8.
fn check_media(request: &HttpRequest) -> Result<(), Problem> {
    let unsupported = |detail| Err(Problem::new(Code::UnsupportedMediaType, detail));
    let mut encodings = request.headers().get_all(CONTENT_ENCODING);
    if !encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return unsupported("a body must not be compressed: omit Content-Encoding");
    }
    let header = request.headers().get(CONTENT_TYPE);
    let content_type = header.and_then(|value| value.to_str().ok());
    let mut parts = content_type.unwrap_or_default().split(';').map(str::trim);
    // A browser sends this type to another site only with that site's consent.
    let media_type = parts.next().unwrap_or_default();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return unsupported("a body must have the header Content-Type: application/json");
    }
    let mut parameters = parts.filter_map(|part| part.split_once('='));
    let is_utf8 = |(name, value): (&str, &str)| {
        let value = value.trim_matches('"');
        !name.eq_ignore_ascii_case("charset") || value.eq_ignore_ascii_case("utf-8")
    };
    if !parameters.all(is_utf8) {
        return unsupported("a body must be in UTF-8: leave charset out of Content-Type");
    }
    Ok(())
}

pub(super) fn api(request: &HttpRequest) -> Result<&Api, Problem> {
    let api = request.app_data::<web::Data<Api>>();
    api.map(|api| &***api)
        .ok_or_else(|| Problem::new(Code::Starting, "the daemon is starting"))
}

/// Reads a body. Slow uploads are counted against a separate limit, so that they do not occupy
/// the route's permits.
pub(super) async fn read(
    request: &HttpRequest,
    payload: web::Payload,
    limit: usize,
) -> Result<Bytes, Problem> {
    let api = api(request)?;
    let mut body = pin!(gather(api, payload, limit));
    if let Some(body) = body.as_mut().now_or_never() {
        return body;
    }
    let class = context::release_permit(request);
    let upload_permit = api.acquire(RequestClass::Body)?;
    let body = timeout(BODY_TIMEOUT, body).await.map_err(|_| {
        Problem::new(
            Code::BodyTimeout,
            format!("the body did not arrive within {BODY_TIMEOUT:?}"),
        )
    })??;
    drop(upload_permit);
    if let Some(class) = class {
        context::replace_permit(request, class, api.acquire(class)?);
    }
    Ok(body)
}

/// Collects a body. A large one reserves a share of the memory for large bodies.
async fn gather(api: &Api, mut payload: web::Payload, limit: usize) -> Result<Bytes, Problem> {
    let (mut body, mut memory) = (BytesMut::new(), None::<Permit>);
    while let Some(part) = payload.next().await {
        let part = part.map_err(broken)?;
        if body.len() + part.len() > limit {
            return Err(Problem::new(
                Code::BodyTooLarge,
                format!("a body on this path has at most {limit} bytes"),
            ));
        }
        if body.len() + part.len() > SMALL_BODY {
            let more = api.admission.memory(part.len());
            let more = more.map_err(|exceeded| api.shed(exceeded))?;
            match &mut memory {
                Some(memory) => memory.merge(more),
                None => memory = Some(more),
            }
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

fn broken(_: impl fmt::Display) -> Problem {
    Problem::new(
        Code::IncompleteBody,
        "the body ended early or was not readable",
    )
}

pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    if let Ok(Object(value)) = serde_json::from_slice(body) {
        return Ok(value);
    }
    // A parser that notes the path for the error is slower.
    let mut json = serde_json::Deserializer::from_slice(body);
    let object = serde_path_to_error::deserialize(&mut json);
    let Object(value) = object.map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        match error.classify() {
            serde_json::error::Category::Data => data_problem(&path, &error),
            _ => not_json(&error),
        }
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// A JSON object. serde alone also accepts a list of the values in the order of the fields.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(Code::InvalidJson, format!("the body is not JSON: {error}"))
}

/// serde reports the position in the text, which does not help; the path names the field.
fn data_problem(path: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let field = if path == "." { "body" } else { path };
    let problem = if reason.starts_with("must ") {
        Problem::invalid(field, reason)
    } else {
        Problem::invalid(field, format!("has the wrong form: {reason}"))
    };
    if reason.starts_with("unknown field ") {
        problem.with_code(Code::UnknownField)
    } else {
        problem
    }
}

/// `{kind}/{key}` of the path.
pub(super) struct ScopePath(pub(super) Scope);

impl FromRequest for ScopePath {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request))
    }
}

impl ScopePath {
    pub(super) fn of(request: &HttpRequest) -> Result<Self, Problem> {
        Ok(Self(Segments::of(request)?.scope()?))
    }
}

/// `{kind}/{key}/instances/{address}` of the path.
pub(super) struct InstancePath(pub(super) InstanceKey);

impl FromRequest for InstancePath {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let known = KnownPath::of(request);
        ready(known.map(|KnownPath(key, _)| Self(key)))
    }
}

/// The same, with the Directory's information about the instance, if it knows the instance.
pub(super) struct KnownPath(pub(super) InstanceKey, pub(super) Option<HeartbeatInfo>);

impl KnownPath {
    fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let (key, info) = Segments::of(request)?.instance(&api(request)?.directory)?;
        Ok(Self(key, info))
    }
}

impl FromRequest for KnownPath {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request))
    }
}

/// `groups` or `services` of the path.
pub(super) struct KindPath(pub(super) ScopeKind);

impl FromRequest for KindPath {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Segments::of(request).map(|path| Self(path.kind())))
    }
}

/// The variable parts of a path; a missing part is empty.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Segments<'a> {
    kind: Cow<'a, str>,
    key: Cow<'a, str>,
    address: Cow<'a, str>,
}

impl<'a> Segments<'a> {
    /// Percent-decodes the parts.
    fn of(request: &'a HttpRequest) -> Result<Self, Problem> {
        let parts = request.match_info();
        // Most paths need no decoding, so their parts can be borrowed.
        if !parts.as_str().contains('%') {
            let part = |name| Cow::Borrowed(parts.query(name));
            return Ok(Self {
                kind: part("kind"),
                key: part("key"),
                address: part("address"),
            });
        }
        web::Path::<Self>::extract(request)
            .into_inner()
            .map(web::Path::into_inner)
            .map_err(|_| Problem::invalid("path", "is not UTF-8 when percent-decoded"))
    }

    fn kind(&self) -> ScopeKind {
        match &*self.kind {
            "groups" => ScopeKind::Group,
            _ => ScopeKind::Service,
        }
    }

    fn scope(&self) -> Result<Scope, Problem> {
        let kind = self.kind();
        Ok(kind.with(self.key.parse().in_field(kind.as_str())?))
    }

    fn instance(
        &self,
        directory: &Directory,
    ) -> Result<(InstanceKey, Option<HeartbeatInfo>), Problem> {
        let parts = KeyParts {
            kind: self.kind(),
            key: &self.key,
            address: &self.address,
        };
        parsed(parts, directory.known(parts))
    }
}

/// Returns the key of an instance and the information about it; parses an unknown key.
pub(super) fn parsed(
    KeyParts { kind, key, address }: KeyParts<'_>,
    known: Option<(InstanceKey, HeartbeatInfo)>,
) -> Result<(InstanceKey, Option<HeartbeatInfo>), Problem> {
    if let Some((key, info)) = known {
        return Ok((key, Some(info)));
    }
    let key = InstanceKey {
        scope: kind.with(key.parse().in_field(kind.as_str())?),
        address: address.parse().in_field("address")?,
    };
    Ok((key, None))
}

/// A query string without unknown parameters.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let query = web::Query::<T>::from_query(request.query_string());
        ready(match query {
            Ok(query) => Ok(Self(query.into_inner())),
            Err(error) => {
                let text = error.to_string();
                let reason = text
                    .strip_prefix("Query deserialize error: ")
                    .unwrap_or(&text);
                Err(Problem::invalid(
                    "query",
                    format!("has the wrong form: {reason}"),
                ))
            }
        })
    }
}
