//! A scope as it is named beside other fields.

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::{Scope, ScopeKind};

/// The key of a group or of a service.
#[derive(Serialize, ToSchema)]
pub(super) struct ScopeName {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    service: Option<String>,
}

impl From<&Scope> for ScopeName {
    fn from(scope: &Scope) -> Self {
        let key = |kind| scope.key_of(kind).map(ToOwned::to_owned);
        Self {
            group: key(ScopeKind::Group),
            service: key(ScopeKind::Service),
        }
    }
}
