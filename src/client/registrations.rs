//! Registrations of many instances in one request.

use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::{Client, ClientError, shown, strange};
use crate::model::{Address, DisplayName, InstanceKey, Metadata, ScopeKey, ScopeKind, Ttl, Weight};

/// A registration as the API accepts it: a complete description, in which `null` is the default,
/// so that nothing of an earlier process at the address stays.
#[derive(Serialize)]
pub(crate) struct RegistrationEntry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a ScopeKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a ScopeKey>,
    address: &'a Address,
    name: Option<&'a DisplayName>,
    weight: Option<Weight>,
    metadata: Option<&'a Metadata>,
    ttl_seconds: Option<Ttl>,
}

/// The fields of a registration.
pub(crate) struct Fields<'a> {
    pub(crate) name: Option<&'a DisplayName>,
    pub(crate) weight: Option<Weight>,
    pub(crate) metadata: Option<&'a Metadata>,
    pub(crate) ttl: Option<Ttl>,
}

impl<'a> RegistrationEntry<'a> {
    /// A registration of this instance.
    pub(crate) fn of(InstanceKey { scope, address }: &'a InstanceKey, fields: Fields<'a>) -> Self {
        let of_kind = |kind| (scope.kind == kind).then_some(&scope.key);
        Self {
            service: of_kind(ScopeKind::Service),
            group: of_kind(ScopeKind::Group),
            address,
            name: fields.name,
            weight: fields.weight,
            metadata: fields.metadata,
            ttl_seconds: fields.ttl,
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    registrations: &'a [RegistrationEntry<'a>],
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Outcome>,
}

/// The parts of a result that are used.
#[derive(Deserialize)]
struct Outcome {
    status: Option<u16>,
    #[serde(default)]
    code: String,
    #[serde(default)]
    detail: String,
}

impl Client {
    /// Registers instances, at most 10,000, and returns the outcomes in their order.
    pub(crate) async fn register(
        &self,
        registrations: &[RegistrationEntry<'_>],
    ) -> Result<Vec<Result<(), ClientError>>, ClientError> {
        let body = serde_json::to_string(&Body { registrations });
        let body = body.map_err(|error| ClientError::Settings(error.to_string()))?;
        let answer = self.exchange(Method::POST, "/v1/registrations", Some(body));
        let (server, answer) = answer.await?;
        let Answer { results } =
            serde_json::from_slice(&answer).map_err(|error| strange(&server, &error))?;
        let outcome = |outcome: Outcome| match outcome.status {
            None => Ok(()),
            Some(status) => Err(ClientError::Refused {
                server: shown(&server),
                status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                code: outcome.code,
                detail: outcome.detail,
            }),
        };
        Ok(results.into_iter().map(outcome).collect())
    }
}
