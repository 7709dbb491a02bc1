//! Registrations: many in one statement.

use std::collections::HashMap;

use tokio_postgres::types::Type;

use super::writer::{PostgresTransaction, json};
use super::{KeyColumns, Params, rows};
use crate::model::{DisplayName, InstanceKey, Registration, Resets, ScopeKind, ScopeRecord};
use crate::store::{Registered, RegisteredMany, StoreError};

impl PostgresTransaction<'_> {
    /// Registers instances, each at most once.
    pub(super) async fn register(
        &mut self,
        registrations: &[Registration],
    ) -> Result<RegisteredMany, StoreError> {
        // Most services are known; the unknown ones show as missing results.
        let all: Vec<&Registration> = registrations.iter().collect();
        let mut registered = HashMap::new();
        for (resets, alike) in by_resets(&all) {
            let (_, changed) = self.upsert(&[], &alike, resets).await?;
            registered.extend(by_key(changed));
        }
        let missing: Vec<InstanceKey> = all
            .iter()
            .map(|registration| &registration.key)
            .filter(|key| !registered.contains_key(key))
            .cloned()
            .collect();
        let unchanged = self.find(&missing).await?.into_iter();
        registered.extend(by_key(unchanged.map(|instance| Registered {
            created: false,
            changed: false,
            instance,
        })));
        let of_unknown = |registration: &&Registration| {
            let key = &registration.key;
            key.scope.kind == ScopeKind::Service && !registered.contains_key(key)
        };
        let of_unknown: Vec<&Registration> = all.into_iter().filter(of_unknown).collect();
        let mut services = Vec::new();
        for (resets, alike) in by_resets(&of_unknown) {
            let keys = alike.iter().map(|one| one.key.scope.key.as_str());
            let keys: Vec<&str> = keys.collect();
            let (declared, created) = self.upsert(&keys, &alike, resets).await?;
            services.extend(declared);
            registered.extend(by_key(created));
        }
        let answers = registrations.iter().map(|registration| {
            let answer = registered.remove(&registration.key);
            match registration.key.scope.kind {
                // It was declared one statement ago, and another replica has deleted it since.
                ScopeKind::Service if answer.is_none() => Err(StoreError::Conflict(format!(
                    "{} was deleted",
                    registration.key.scope
                ))),
                _ => Ok(answer),
            }
        });
        let instances = answers.collect::<Result<_, _>>()?;
        Ok(RegisteredMany {
            instances,
            services,
        })
    }

    /// Declares the unknown services, then inserts and updates instances. Returns the services and
    /// instances that changed. All registrations treat known instances alike.
    async fn upsert(
        &mut self,
        services: &[&str],
        registrations: &[&Registration],
        resets: Resets,
    ) -> Result<(Vec<ScopeRecord>, Vec<Registered>), StoreError> {
        let columns = KeyColumns::of(registrations.iter().map(|registration| &registration.key));
        let mut names = Vec::with_capacity(registrations.len());
        let mut weights = Vec::with_capacity(registrations.len());
        let mut metadata = Vec::with_capacity(registrations.len());
        let mut ttls = Vec::with_capacity(registrations.len());
        let mut registrants = Vec::with_capacity(registrations.len());
        let mut statuses = Vec::with_capacity(registrations.len());
        for registration in registrations {
            let Registration {
                name, weight, ttl, ..
            } = registration;
            names.push(name.given().map(DisplayName::as_str));
            weights.push(weight.given().map(|weight| i32::from(weight.get())));
            metadata.push(registration.metadata.given().map(json).transpose()?);
            ttls.push(ttl.given().map(|ttl| i32::from(ttl.as_secs())));
            registrants.push(registration.by.as_ref().map(ToString::to_string));
            statuses.push(registration.first_status().as_str());
        }
        let now = self.now;
        let declare: Params<'_> = &[(&services, Type::TEXT_ARRAY), (&now, Type::TIMESTAMPTZ)];
        let register: Params<'_> = &[
            (&columns.kinds, Type::TEXT_ARRAY),
            (&columns.keys, Type::TEXT_ARRAY),
            (&columns.addresses, Type::TEXT_ARRAY),
            (&names, Type::TEXT_ARRAY),
            (&weights, Type::INT4_ARRAY),
            (&metadata, Type::JSONB_ARRAY),
            (&ttls, Type::INT4_ARRAY),
            (&registrants, Type::TEXT_ARRAY),
            (&statuses, Type::TEXT_ARRAY),
            (&now, Type::TIMESTAMPTZ),
            (&resets.name, Type::BOOL),
            (&resets.weight, Type::BOOL),
            (&resets.metadata, Type::BOOL),
            (&resets.ttl, Type::BOOL),
            (&resets.keeps_status, Type::BOOL),
        ];
        let mut questions = vec![(sql!("register_instances"), register)];
        if !services.is_empty() {
            questions.insert(0, (sql!("declare_services"), declare));
        }
        let mut answers = self.query_pipelined(&questions).await?;
        let registered = answers.pop().unwrap_or_default();
        let declared = answers.pop().unwrap_or_default();
        let registered = registered.iter().map(|row| {
            Ok(Registered {
                instance: rows::instance(row)?,
                created: rows::get(row, "created")?,
                changed: true,
            })
        });
        let registered = registered.collect::<Result<_, _>>()?;
        let declared = declared.iter().map(rows::scope).collect::<Result<_, _>>()?;
        Ok((declared, registered))
    }
}

/// Returns the registrations in groups that treat known instances alike. Nearly always one.
fn by_resets<'a>(registrations: &[&'a Registration]) -> HashMap<Resets, Vec<&'a Registration>> {
    let mut groups: HashMap<Resets, Vec<&Registration>> = HashMap::new();
    for registration in registrations {
        let group = groups.entry(registration.resets()).or_default();
        group.push(registration);
    }
    groups
}

fn by_key(registered: impl IntoIterator<Item = Registered>) -> HashMap<InstanceKey, Registered> {
    let with_key = |one: Registered| (one.instance.key.clone(), one);
    registered.into_iter().map(with_key).collect()
}
